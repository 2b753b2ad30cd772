"use strict";
// The page's backend on a server (stages/serving/app.py): POST /predict.

const backend = {
  notes: ["The image is sent to the server that this page came from, and not kept there."],
  async load() {},

  async open(source) {
    const response = await fetch(source);
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    return response.blob();
  },

  async classify(file) {
    const body = new FormData();
    body.append("file", file);
    let response;
    try {
      response = await fetch("predict?heat=true", { method: "POST", body });
    } catch {
      throw new Error("the server cannot be reached; try again when it is");
    }
    const answer = await response.json().catch(() => ({}));
    const [first] = answer.predictions ?? [];
    const error = first ? first.error : (answer.error ?? `the server answered ${response.status}`);
    if (error) throw new Error(error);
    return first;
  },
};
