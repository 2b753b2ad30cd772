-- For wrk: posts files as forms, one a request, in turns. Arguments: the form's field, the files.
-- The last line that it prints is JSON: what was answered, and after how many milliseconds.

local requests, at = {}, 0

function init(arguments)
   for number = 2, #arguments do
      local file = assert(io.open(arguments[number], "rb"))
      local body = "--limit\r\n" ..
         'Content-Disposition: form-data; name="' .. arguments[1] .. '"; filename="photo.jpg"\r\n' ..
         "Content-Type: image/jpeg\r\n\r\n" .. file:read("*a") .. "\r\n--limit--\r\n"
      file:close()
      local headers = { ["Content-Type"] = "multipart/form-data; boundary=limit" }
      requests[#requests + 1] = wrk.format("POST", nil, headers, body)
   end
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"answers": %d, "seconds": %.6f, "failed": %d, "median": %.3f, "p99": %.3f}\n',
      summary.requests, summary.duration / 1e6,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
