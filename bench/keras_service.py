"""The peer of `bench.serve`: a web service as Keras' own guide builds one.

After "Building a simple Keras + deep learning REST API" (blog.keras.io): Flask, one photo a
request, `keras.Model.predict`, the server that Flask brings.
"""

import argparse
import io


def serve(path: str, port: int) -> None:
    """Answer POST /predict, a form with a photo named `image`, by the .keras file `path`."""
    import flask
    import keras
    import numpy as np
    from PIL import Image

    app = flask.Flask(__name__)
    model = keras.models.load_model(path)
    height, width = model.input_shape[1:3]

    @app.post("/predict")
    def predict():
        photo = Image.open(io.BytesIO(flask.request.files["image"].read())).convert("RGB")
        image = keras.utils.img_to_array(photo.resize((width, height)))
        (probabilities,) = model.predict(np.expand_dims(image, 0), verbose=0)
        return flask.jsonify({"probabilities": probabilities.tolist()})

    app.run(port=port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a .keras file")
    parser.add_argument("--port", type=int, required=True, help="of 127.0.0.1")
    options = parser.parse_args()
    serve(options.model, options.port)


if __name__ == "__main__":
    main()
