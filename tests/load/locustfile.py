"""lossd under Locust, with one of the bodies that `capacity.py --keep FOLDER` leaves:

    BODY=FOLDER/32x1000.safetensors locust -f tests/load/locustfile.py --headless -u 16 -t 10s -H http://127.0.0.1:8080

Each user is a connection in a closed loop; with RATE set, one that sends that many requests a second. KEY is an API key."""

import os
import pathlib

from locust import FastHttpUser, constant, constant_throughput, task

BODY = pathlib.Path(os.environ["BODY"])
HEADERS = {"Content-Type": "application/json" if BODY.suffix == ".json" else "application/x-safetensors"}
if "KEY" in os.environ:
    HEADERS["Authorization"] = f"Bearer {os.environ['KEY']}"


class Caller(FastHttpUser):
    wait_time = constant_throughput(float(os.environ["RATE"])) if "RATE" in os.environ else constant(0)
    body = BODY.read_bytes()

    @task
    def cross_entropy(self) -> None:
        # Whatever is not 2xx counts as a failure.
        self.client.post("/v1/losses/cross_entropy", data=self.body, headers=HEADERS, name=BODY.name)
