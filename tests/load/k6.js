// lossd under k6: an open loop, requests at fixed times, with one of the bodies that `capacity.py --keep FOLDER` leaves.
//
//     k6 run -e BODY=FOLDER/32x1000.safetensors -e RATE=2000 tests/load/k6.js
//
// LOSSD (http://127.0.0.1:8080), RATE (a second, 1000), SECONDS (10), KEY (an API key, none).
import http from "k6/http";
import { check } from "k6";

const body = open(__ENV.BODY, "b");
const url = `${__ENV.LOSSD || "http://127.0.0.1:8080"}/v1/losses/cross_entropy`;
const headers = { "Content-Type": __ENV.BODY.endsWith(".json") ? "application/json" : "application/x-safetensors" };
if (__ENV.KEY) headers.Authorization = `Bearer ${__ENV.KEY}`;
const rate = Number(__ENV.RATE || 1000);

export const options = {
  discardResponseBodies: true,
  scenarios: {
    open: {
      executor: "constant-arrival-rate",
      rate,
      timeUnit: "1s",
      duration: `${__ENV.SECONDS || 10}s`,
      preAllocatedVUs: 64,
      maxVUs: 512,
    },
  },
  // Where k6 cannot keep the times (dropped_iterations), what it says of the others is no open loop any more.
  thresholds: { checks: ["rate==1"], dropped_iterations: ["count==0"], http_req_duration: ["p(99)<1000"] },
};

export default function () {
  check(http.post(url, body, { headers }), { "status is 200": (reply) => reply.status === 200 });
}
