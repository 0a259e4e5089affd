"""The service that a team would write instead: FastAPI, PyTorch, safetensors. POST /cross_entropy, as lossd's.

    python3 -m uvicorn fastapi_service:app --workers 2 --port 8001 --log-level warning --no-access-log
"""

import torch
from fastapi import FastAPI, Request, Response
from safetensors.torch import load, save

torch.set_num_threads(1)  # two workers share two cores
app = FastAPI()


@app.post("/cross_entropy")
async def cross_entropy(request: Request) -> Response:
    tensors = load(await request.body())
    logits = tensors["logits"].requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits, tensors["targets"])
    loss.backward()
    reply = save({"loss": loss.detach().reshape(1), "grad.logits": logits.grad})
    return Response(reply, media_type="application/x-safetensors")
