#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Golden cases of cross_entropy.

Every case is the definition written out in f64 and differentiated by torch. Two other roads must
lead to the same place, or the generator stops: torch's own cross_entropy wherever it has the
options of the case, and the gradient in closed form. The definition is the one that is written to
the file because it keeps the relative precision of a confident row, where torch's own subtracts
1 from a probability that rounds to 1.
"""
import itertools
import os

import torch
import torch.nn.functional as F

from oracle import F64, INF, NAN, Book, Draw, Inputs, same, stated

DEFAULTS = {
    "reduction": "mean",
    "num_items": None,
    "class_dim": -1,
    "vocab_size": None,
    "ignore_index": -100,
    "label_smoothing": 0.0,
    "smoothing_mode": "uniform",
    "logit_scale": 1.0,
    "softcap": None,
    "z_loss": 0.0,
    "focal_gamma": 0.0,
    "poly1": 0.0,
    "target_scaling": 0.0,
    "subtract_entropy": False,
    "empty_mean": "zero",
}


def parse(options):
    """The typed values of options in text form."""
    values = dict(DEFAULTS)
    for name, text in options.items():
        assert name in DEFAULTS, name
        if name in ("reduction", "smoothing_mode", "empty_mean"):
            values[name] = text
        elif name in ("class_dim", "vocab_size", "ignore_index"):
            values[name] = int(text)
        elif name == "subtract_entropy":
            values[name] = {"true": True, "false": False}[text]
        else:
            values[name] = None if text == "off" else float(text)
    return values


def to_rows(tensor, class_dim):
    """One row per position, the classes last."""
    last = tensor.movedim(class_dim, -1)
    return last.reshape(-1, tensor.shape[class_dim])


def from_rows(rows, like, class_dim):
    last = like.movedim(class_dim, -1)
    return rows.reshape(last.shape).movedim(-1, class_dim)


def log_sum_exp(z):
    """-inf terms add nothing; a row of nothing but -inf is not for this function."""
    m = z.detach().amax(1, keepdim=True)
    return m.squeeze(1) + torch.log(torch.exp(z - m).sum(1))


class Evaluation:
    """One call: `outputs` holds everything that can be asked for, `scale` the Z of every row."""

    def __init__(self, inputs, options):
        self.o = parse(options)
        self.x = inputs.get("logits").clone().requires_grad_(True)
        self.dim = self.o["class_dim"] if self.x.dim() > 1 else 0
        self.classes = self.x.shape[self.dim]
        self.v = self.o["vocab_size"] or self.classes
        self.row_shape = self.x.movedim(self.dim, -1).shape[:-1]
        self.t = inputs.get("targets")
        self.index_form = not self.t.dtype.is_floating_point
        if not self.index_form:
            self.t = self.t.clone().requires_grad_(True)
        self.w = self.optional(inputs, "class_weight", (self.classes,))[: self.v]
        self.r = self.optional(inputs, "sample_weight", self.row_shape).reshape(-1)
        self.go = inputs.get("grad_output")
        self.targets_smooth = True
        self.cancels = False
        self.confirmed = False
        self.legal(options)
        self.count(inputs)
        self.scores()
        self.values()
        self.reduce()
        self.diagnose()
        self.check_closed_form()
        self.check_torch()

    def optional(self, inputs, name, shape):
        given = inputs.get(name)
        if given is None:
            return torch.ones(tuple(shape), dtype=F64)
        assert tuple(given.shape) == tuple(shape), name
        return given.to(F64)

    def legal(self, options):
        o = self.o
        if o["focal_gamma"] or o["poly1"]:
            assert self.index_form and o["label_smoothing"] == 0
        if o["smoothing_mode"] == "others":
            assert self.index_form and self.v >= 2
        if o["target_scaling"]:
            assert self.index_form
            assert o["label_smoothing"] == 0 and not o["focal_gamma"] and not o["poly1"]
        assert self.index_form or "ignore_index" not in options
        assert o["num_items"] is None or o["reduction"] == "mean"

    def count(self, inputs):
        """Which rows count."""
        rows = self.x.numel() // self.classes
        self.counted = torch.ones(rows, dtype=torch.bool)
        mask = inputs.get("mask")
        if mask is not None:
            assert tuple(mask.shape) == tuple(self.row_shape)
            self.counted &= mask.reshape(-1) != 0
        if self.index_form:
            y = self.t.reshape(-1).to(torch.int64)
            self.counted &= y != self.o["ignore_index"]
            self.y = torch.where(self.counted, y, torch.zeros_like(y))
            assert bool(((self.y >= 0) & (self.y < self.v)).all())

    def scores(self):
        """z, with a harmless 0 in the rows that are not read and in those whose result is NaN."""
        o = self.o
        x = to_rows(self.x, self.dim)[:, : self.v]
        x = torch.where(self.counted[:, None], x, torch.zeros_like(x))
        self.u = x if o["softcap"] is None else o["softcap"] * torch.tanh(x / o["softcap"])
        z = o["logit_scale"] * self.u
        self.raw_z = z.detach()
        finite = torch.where(torch.isfinite(self.raw_z), self.raw_z.abs(),
                             torch.zeros_like(self.raw_z))
        self.scale = finite.amax(1) if len(finite) else torch.zeros(0, dtype=F64)
        broken = torch.isnan(self.raw_z).any(1) | (self.raw_z == INF).any(1)
        self.broken = (broken | (self.raw_z == -INF).all(1)) & self.counted
        self.z = torch.where(self.broken[:, None], torch.zeros_like(z), z)

    def smoothed(self):
        """q of the contract."""
        eps, v = self.o["label_smoothing"], self.v
        if not self.index_form:
            t = to_rows(self.t, self.dim)[:, :v]
            t = torch.where(self.counted[:, None], t, torch.zeros_like(t))
            return (1 - eps) * t + eps / v
        hot = F.one_hot(self.y, v).to(F64)
        if self.o["smoothing_mode"] == "uniform":
            return (1 - eps) * hot + eps / v
        return (1 - eps) * hot + (1 - hot) * eps / (v - 1)

    def target_log_probability(self):
        """l_y, and log(1 - p_y), without ever rounding against 1."""
        hot = F.one_hot(self.y, self.v).bool()
        others = torch.where(hot, torch.full_like(self.z, -INF), self.z)
        alone = (others.detach() == -INF).all(1)
        others = torch.where(alone[:, None], torch.zeros_like(others), others)
        zy = self.z.gather(1, self.y[:, None]).squeeze(1)
        lead = zy - log_sum_exp(others)
        lead = torch.where(alone, torch.zeros_like(lead), lead)
        log_p = torch.where(alone, torch.zeros_like(lead), F.logsigmoid(lead))
        log_rest = torch.where(alone, torch.full_like(lead, -INF), F.logsigmoid(-lead))
        return log_p, log_rest, alone

    def values(self):
        """main and zl of every row."""
        o = self.o
        rows = self.z.shape[0]
        if rows == 0:
            self.L = torch.zeros(0, dtype=F64)
            self.l = self.z
            self.q = torch.zeros_like(self.z)
            self.wy = torch.zeros(0, dtype=F64)
            self.main = self.plain = self.zl = self.z.sum(1)
            self.nll = torch.zeros(0, dtype=F64)
            return
        self.L = log_sum_exp(self.z)
        self.l = self.z - self.L[:, None]
        self.q = self.smoothed()
        wq = self.w * self.q
        if self.index_form:
            log_p, log_rest, alone = self.target_log_probability()
            self.nll = -log_p.detach()
            self.wy = self.w[self.y]
        safe = torch.where((wq == 0) & (self.l == -INF), torch.zeros_like(self.l), self.l)
        if self.index_form and o["label_smoothing"] == 0:
            safe_y = torch.where((self.wy == 0) & (log_p == -INF), torch.zeros_like(log_p), log_p)
            self.plain = main = -self.wy * safe_y
        else:
            self.plain = main = -(wq * safe).sum(1)
        if o["focal_gamma"]:
            # (1 - p_y)^gamma is 0 where no other class has mass, and its slope is nothing where p_y
            # is 0: the rule 0 * anything = 0 keeps the infinite l_y out of it.
            log_rest = torch.where(alone | (log_p == -INF), torch.zeros_like(log_rest), log_rest)
            factor = torch.exp(o["focal_gamma"] * log_rest)
            main = torch.where(alone, torch.zeros_like(main), main * factor)
        if o["target_scaling"]:
            share = torch.exp(o["target_scaling"] * log_p).detach()
            gone = log_p == -INF
            main = share * -self.wy * torch.where(gone, torch.zeros_like(log_p), log_p)
        if o["poly1"]:
            lead = torch.where(alone, torch.full_like(log_p, -INF), log_rest)
            main = main + o["poly1"] * self.wy * torch.exp(lead)
        if o["subtract_entropy"]:
            some = torch.where(self.q > 0, self.q, torch.ones_like(self.q))
            main = main + (self.w * self.q * torch.log(some)).sum(1)
        self.main = main
        self.zl = o["z_loss"] * self.L**2

    def reduce(self):
        o = self.o
        live = self.counted
        zero = torch.zeros_like(self.main)
        bad = torch.where(self.broken, torch.full_like(self.main, NAN).detach(), zero.detach())
        main = torch.where(live, self.r * (self.main + bad), zero)
        zl = torch.where(live, self.r * (self.zl + bad), zero)
        if o["z_loss"] == 0:
            zl = zero
        weight = torch.where(live, self.r, torch.zeros_like(self.r))
        self.n = weight.sum()
        self.D = (weight * self.wy).sum() if self.index_form else self.n
        if o["reduction"] == "none":
            self.rho = self.zeta = weight
            part, loss = zl.reshape(self.row_shape), (main + zl).reshape(self.row_shape)
        elif o["reduction"] == "sum":
            self.rho = self.zeta = weight
            part, loss = zl.sum(), (main + zl).sum()
        else:
            n = self.n
            if o["num_items"] is not None:
                n = self.D = torch.tensor(o["num_items"], dtype=F64)
            empty = torch.tensor(0.0 if o["empty_mean"] == "zero" else NAN, dtype=F64)
            first = main.sum() / self.D if self.D != 0 else main.sum() * 0 + empty
            part = zl.sum() / n if n != 0 else zl.sum() * 0 + empty
            self.rho = weight / self.D if self.D != 0 else weight * 0
            self.zeta = weight / n if n != 0 else weight * 0
            loss = first + part if o["z_loss"] else first
        go = torch.ones(loss.shape, dtype=F64) if self.go is None else self.go.to(F64)
        if self.go is not None:
            assert tuple(go.shape) == tuple(loss.shape) or (loss.dim() == 0 and go.numel() == 1)
            go = go.reshape(loss.shape)
        self.upstream = go
        wanted = [self.x] if self.index_form else [self.x, self.t]
        got = torch.autograd.grad((go * loss).sum(), wanted, retain_graph=True, allow_unused=True)
        self.outputs = {"loss": loss.detach()}
        for name, tensor, grad in zip(("logits", "targets"), wanted, got):
            grad = torch.zeros_like(tensor) if grad is None else grad.clone()
            rows = to_rows(grad, self.dim).clone()
            rows[self.broken, : self.v] = NAN
            rows[~self.counted] = 0
            self.outputs["grad." + name] = from_rows(rows, grad, self.dim).contiguous()
        self.outputs["z_loss"] = part.detach()
        self.outputs["denominator"] = self.D.detach().reshape(())

    def per_row(self, values, ignored=0.0):
        values = torch.where(self.counted, values, torch.full_like(values, ignored))
        return values.reshape(self.row_shape)

    def diagnose(self):
        out = self.outputs
        live, count = self.counted, int(self.counted.sum())
        bad = torch.where(self.broken, torch.full_like(self.scale, NAN),
                          torch.zeros_like(self.scale))
        log_p = self.l.detach()
        p = torch.exp(log_p)
        safe = torch.where(p == 0, torch.zeros_like(p), log_p)
        out["lse"] = self.per_row(self.L.detach() + bad)
        out["entropy"] = self.per_row(-(p * safe).sum(1) + bad)
        out["count"] = torch.tensor(count)
        self.clear_winner = True
        best = torch.zeros(len(live), dtype=torch.int64)
        for i in range(len(live)):
            z = self.raw_z[i].tolist()
            x = to_rows(self.x.detach(), self.dim)[i, : self.v].tolist()
            k = z.index(max(z)) if not any(a != a for a in z) else -2
            best[i] = k
            margin = 1e-4 * (1 + self.scale[i].item())
            if live[i] and (k == -2 or any(z[k] - z[j] < margin for j in range(self.v)
                                           if j != k and x[j] != x[k])):
                self.clear_winner = False
        out["predicted"] = self.per_row(best, -1)
        if self.index_form:
            out["nll"] = self.per_row(self.nll + bad)
            if count:
                out["accuracy"] = (live & (best == self.y)).sum().to(F64) / count
                out["perplexity"] = torch.exp(out["nll"].sum() / count)

    def check_closed_form(self):
        """The gradient as the contract states it, on the rows that have one."""
        o = self.o
        if not len(self.z):
            return
        z, l = self.z.detach(), self.l.detach()
        p, q, L = torch.exp(l), self.q.detach(), self.L.detach()
        wq = self.w * q
        g = wq.sum(1, keepdim=True) * p - wq
        if self.index_form:
            hot = F.one_hot(self.y, self.v).to(F64)
            p_y = (p * hot).sum(1)
            rest = (p * (1 - hot)).sum(1)
            l_y = -self.nll
            if o["focal_gamma"]:
                gamma = o["focal_gamma"]
                slope = torch.where(p_y == 0, torch.zeros_like(l_y), p_y * l_y)
                kappa = gamma * rest ** (gamma - 1) * slope - rest**gamma
                kappa = torch.where(rest == 0, torch.zeros_like(kappa), kappa)
                g = (self.wy * kappa)[:, None] * (hot - p)
            if o["target_scaling"]:
                g = torch.exp(o["target_scaling"] * l_y)[:, None] * g
            if o["poly1"]:
                g = g - (o["poly1"] * self.wy * p_y)[:, None] * (hot - p)
        up = self.upstream.reshape(-1) if self.upstream.dim() else self.upstream
        # A row whose p and q almost agree has a gradient of rounding errors: no such goldens.
        size = torch.maximum(wq.sum(1, keepdim=True) * p, wq).amax(1)
        near = (g.abs().amax(1) < 0.07 * size) & (g != 0).any(1)
        smooth = not self.index_form or o["label_smoothing"] != 0
        self.cancels = smooth and bool((near & self.counted & ~self.broken).any())
        J = o["logit_scale"]
        if o["softcap"] is not None:
            J = J * (1 - (self.u.detach() / o["softcap"]) ** 2)
        total = (up * self.rho)[:, None] * g + (up * self.zeta * 2 * o["z_loss"] * L)[:, None] * p
        total = total * J
        good = self.counted & ~self.broken
        got = to_rows(self.outputs["grad.logits"], self.dim)
        assert same(got[good][:, : self.v], total[good], 1e-11)
        assert bool((got[~self.counted] == 0).all()) and bool((got[:, self.v :] == 0).all())
        if not self.index_form:
            inner = -l
            if o["subtract_entropy"]:
                inner = 1 + torch.log(q) - l
            grad_t = (up * self.rho)[:, None] * (1 - o["label_smoothing"]) * self.w * inner
            unclear = (wq == 0) & (l == -INF)
            if o["subtract_entropy"]:
                unclear = unclear | (q <= 0)
            fine = good[:, None] & ~unclear
            got = to_rows(self.outputs["grad.targets"], self.dim)[:, : self.v]
            assert same(got[fine], grad_t[fine], 1e-11)
            self.targets_smooth = not bool((good[:, None] & ~fine).any())

    def check_torch(self):
        """torch's own cross_entropy on z, wherever it has what the case uses."""
        o = self.o
        if not len(self.z) or o["smoothing_mode"] == "others" or not self.index_form and bool(
            (self.z == -INF).any()):
            return
        if bool((self.z == -INF).any()) and (bool((self.w == 0).any()) or o["label_smoothing"]):
            return
        eps = o["label_smoothing"]
        smooth = {"label_smoothing": eps, "weight": self.w}
        if self.index_form:
            rows = F.cross_entropy(self.z.detach(), self.y, reduction="none", **smooth)
        else:
            t = to_rows(self.t.detach(), self.dim)[:, : self.v]
            rows = F.cross_entropy(self.z.detach(), t, reduction="none", **smooth)
        live = self.counted
        assert same(rows[live], self.plain.detach()[live], 1e-11)

        special = o["z_loss"] or o["focal_gamma"] or o["poly1"] or o["subtract_entropy"]
        special = special or o["target_scaling"]
        special = special or o["num_items"] is not None or bool((self.r != 1).any())
        if special or bool(self.broken.any()) or (o["reduction"] == "mean" and self.D == 0):
            return
        x = self.x.detach().clone()
        x = from_rows(torch.where(live[:, None], to_rows(x, self.dim), torch.zeros(1, dtype=F64)),
                      x, self.dim).clone().requires_grad_(True)
        z = x.narrow(self.dim, 0, self.v)
        if o["softcap"] is not None:
            z = o["softcap"] * torch.tanh(z / o["softcap"])
        z = z * o["logit_scale"]
        front = z if z.dim() == 1 else z.movedim(self.dim, 1)
        if self.index_form:
            target = self.t.to(torch.int64)
            target = torch.where(live.reshape(target.shape), target,
                                 torch.full_like(target, o["ignore_index"]))
            loss = F.cross_entropy(front, target, reduction=o["reduction"],
                                   ignore_index=o["ignore_index"], **smooth)
        elif bool(live.all()):
            t = self.t.detach().narrow(self.dim, 0, self.v)
            t = t if t.dim() == 1 else t.movedim(self.dim, 1)
            loss = F.cross_entropy(front, t, reduction=o["reduction"], **smooth)
        else:
            return
        assert same(loss.detach(), self.outputs["loss"], 1e-11)
        (self.upstream * loss).sum().backward()
        assert same(x.grad, self.outputs["grad.logits"], 1e-11)
        self.confirmed = True


BOOK = Book("cross_entropy")
CONFIRMED = []
INDEX_WANTS = ["nll", "lse", "entropy", "predicted", "accuracy", "count", "perplexity", "z_loss",
               "denominator"]
PROBABILITY_WANTS = ["lse", "entropy", "predicted", "count", "z_loss", "denominator"]


def write(name, inputs, options, want=(), default=("loss", "grad.logits")):
    """Evaluate and keep a case with the outputs named."""
    e = Evaluation(inputs, options)
    names = list(default) + [w for w in want if w not in default]
    for ambiguous in ("predicted", "accuracy"):
        assert ambiguous not in names or e.clear_winner, name
    assert "grad.targets" not in names or e.targets_smooth, name
    assert not e.cancels, name
    BOOK.add(name, inputs, options, {k: e.outputs[k] for k in names}, e.scale)
    CONFIRMED.append(e.confirmed)
    return e


def fill(draw, rows, classes, form, dim, options, extra, spread, ttype, kind, ignored):
    """The inputs of a case of random numbers."""
    vocab = int(options.get("vocab_size", classes))
    shape = rows + (classes,) if dim == -1 else rows[:dim] + (classes,) + rows[dim:]
    inputs = Inputs()
    inputs.put("logits", draw.normal(shape, spread))
    total = 1
    for size in rows:
        total *= size
    if form == "index":
        targets = draw.integers(rows, 0, vocab)
        if "ignore" in extra or "ignore_index" in options:
            skip = draw.flags(rows, ignored)
            if total > 1:
                skip.reshape(-1)[0] = True
                skip.reshape(-1)[-1] = False
            targets = torch.where(skip, torch.tensor(int(options.get("ignore_index", -100))),
                                  targets)
        inputs.put("targets", targets, ttype)
    else:
        shares = torch.zeros(total, classes, dtype=F64)
        shares[:, :vocab] = draw.shares(total, vocab)
        like = torch.zeros(shape, dtype=F64)
        inputs.put("targets", from_rows(shares, like, dim if len(shape) > 1 else 0))
    if "class_weight" in extra:
        inputs.put("class_weight", draw.between((classes,), 0.25, 2.5), kind)
    if "sample_weight" in extra:
        inputs.put("sample_weight", draw.between(rows, 0.25, 2.0), kind)
    if "mask" in extra:
        mask = draw.flags(rows)
        if total > 1:
            mask.reshape(-1)[-1] = True
        inputs.put("mask", mask, "bool")
    if "grad_output" in extra:
        reduced = options.get("reduction", "mean") != "none"
        inputs.put("grad_output", draw.normal(() if reduced else rows, 1.0), kind)
    return inputs


def build(name, rows=(3,), classes=7, form="index", dim=-1, options=None, extra=(), want=(),
          spread=1.5, ttype="i64", kind="float", ignored=0.3, default=("loss", "grad.logits")):
    """A case of random numbers. `extra` names the optional inputs; `want` may be "all"."""
    options = {k: str(v) for k, v in (options or {}).items()}
    if dim != -1:
        options["class_dim"] = str(dim)
    for attempt in range(20):
        draw = Draw(name if attempt == 0 else f"{name} {attempt}")
        inputs = fill(draw, tuple(rows), classes, form, dim, options, extra, spread, ttype, kind,
                      ignored)
        e = Evaluation(inputs, options)
        if not e.cancels:
            break
    if want == "all":
        want = INDEX_WANTS if form == "index" else PROBABILITY_WANTS + ["grad.targets"]
        want = [w for w in want if w in e.outputs]
        if not e.clear_winner:
            want = [w for w in want if w not in ("predicted", "accuracy")]
        if form != "index" and not e.targets_smooth:
            want.remove("grad.targets")
    return write(name, inputs, options, want, default)


def given(logits, targets, ttype=None, **others):
    """Inputs from literal numbers. Others are tensors, lists, or (numbers, type)."""
    inputs = Inputs()
    inputs.put("logits", torch.tensor(logits, dtype=F64))
    if ttype is None:
        flat = torch.tensor(targets)
        ttype = "float" if flat.dtype.is_floating_point else "i64"
    inputs.put("targets", torch.tensor(targets, dtype=F64 if ttype == "float" else torch.int64),
               ttype)
    for name, value in others.items():
        dtype = "bool" if name == "mask" else "float"
        if isinstance(value, tuple):
            value, dtype = value
        inputs.put(name, torch.tensor(value, dtype=None if dtype in ("bool", "u8") else F64), dtype)
    return inputs


def checks():
    """The tables of the contract. Their logits have no short binary form: these cases are f64."""
    x = [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]
    y = [0, 1]
    t = [[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]]
    none_grad = [[-0.2412854851, 0.1026808438, 0.1386046413],
                 [0.4266467908, -0.9477543579, 0.5211075671]]
    mean_grad = [[v / 2 for v in row] for row in none_grad]
    table = [
        ("none", {"reduction": "none"}, None, [0.2761297055, 2.951798796], none_grad),
        ("mean", {}, None, 1.613964251, mean_grad),
        ("mean-smoothing-uniform", {"label_smoothing": "0.1"}, None, 1.602297584,
         [[-0.08730940922, 0.03467375522, 0.052635654],
          [0.1966567287, -0.4405438456, 0.2438871169]]),
        ("mean-smoothing-others", {"label_smoothing": "0.1", "smoothing_mode": "others"}, None,
         1.596464251, [[-0.07064274255, 0.02634042188, 0.04430232067],
                       [0.1883233954, -0.4238771789, 0.2355537835]]),
        ("mean-smoothing-weighted", {"label_smoothing": "0.1"}, [1.0, 2.0, 0.5], 1.99722652,
         [[-0.05399119217, 0.01257517483, 0.04141601734],
          [0.261468783, -0.588843062, 0.327374279]]),
        ("mean-negative-weight", {}, [1.0, -2.0, 0.5], 5.627467886,
         [[0.2412854851, -0.1026808438, -0.1386046413],
          [0.8532935816, -1.895508716, 1.042215134]]),
        ("mean-weights-cancel", {}, [1.0, -1.0, 0.5], 0, [[0] * 3] * 2),
        ("mean-num-items", {"num_items": "5"}, None, 0.6455857003,
         [[-0.04825709702, 0.02053616875, 0.02772092827],
          [0.08532935816, -0.1895508716, 0.1042215134]]),
        ("sum-z-loss", {"reduction": "sum", "z_loss": "0.01"}, None, 3.280406081,
         [[-0.2188862644, 0.1057122486, 0.1426966099],
          [0.4415947775, -0.9459238808, 0.5393650792]]),
        ("sum-softcap", {"reduction": "sum", "softcap": "2"}, None, 3.072396509,
         [[-0.1918304906, 0.0998540103, 0.1437128463],
          [0.3547397966, -0.6664620661, 0.3785181653]]),
        ("sum-logit-scale", {"reduction": "sum", "logit_scale": "0.5"}, None, 2.533340029,
         [[-0.2214941419, 0.1024565795, 0.1190375624],
          [0.2036569732, -0.4287327372, 0.225075764]]),
        ("sum-focal", {"reduction": "sum", "focal_gamma": "2"}, None, 2.667494708,
         [[-0.03844137387, 0.01635901431, 0.02208235955],
          [0.5079490589, -1.12835944, 0.6204103815]]),
        ("sum-poly1", {"reduction": "sum", "poly1": "1"}, None, 4.416968344,
         [[-0.4243522849, 0.1805862903, 0.2437659945],
          [0.4489372264, -0.9972703929, 0.5483331665]]),
        ("mean-target-scaling-1", {"target_scaling": "1"}, None, 0.1818611196,
         [[-0.09153339989, 0.03895272329, 0.05258067661],
          [0.01114521777, -0.0247580175, 0.01361279973]]),
        ("mean-target-scaling-half", {"target_scaling": "0.5"}, None, 0.4576111495, None),
        ("mean-probability", {}, None, 1.323964251,
         [[0.02935725745, -0.04865957812, 0.01930232067],
          [0.2133233954, -0.2238771789, 0.01055378353]]),
    ]
    for name, options, weight, loss, grad in table:
        inputs = Inputs()
        inputs.put("logits", torch.tensor(x, dtype=F64), "f64")
        if name.endswith("probability"):
            inputs.put("targets", torch.tensor(t, dtype=F64), "f64")
        else:
            inputs.put("targets", torch.tensor(y), "i64")
        if weight:
            inputs.put("class_weight", torch.tensor(weight, dtype=F64), "f64")
        want = ("lse", "entropy", "perplexity", "nll") if name == "mean" else ()
        e = write("check/" + name, inputs, options, want)
        stated(e.outputs["loss"], loss, name)
        if grad:
            stated(e.outputs["grad.logits"], grad, name)
        if name == "mean":
            stated(e.outputs["lse"], [1.476129706, 1.751798796], "lse")
            stated(e.outputs["entropy"], [0.7171192833, 0.8572931309], "entropy")
            stated(e.outputs["perplexity"], 5.022682988, "perplexity")


def sizes():
    """Rows around the widths of vectors and beyond, alone and with what changes the inner loop."""
    for c in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 256, 257, 300):
        rows = (3,) if c < 60 else (2,)
        want = ("nll", "lse", "entropy", "predicted") if c < 100 else ("lse", "nll")
        build(f"size/plain-{c}", rows, c, options={"reduction": "none"}, want=want, spread=3)
    for c in (2, 7, 16, 33, 127, 200):
        build(f"size/smoothing-{c}", (3,), c, options={"label_smoothing": 0.1})
        build(f"size/softcap-z-loss-{c}", (2,), c, options={"softcap": 4, "z_loss": 0.01,
                                                            "reduction": "sum"}, spread=3)
        build(f"size/probability-{c}", (2,), c, "prob", want=("grad.targets", "lse"),
              options={"reduction": "sum"})
        build(f"size/weighted-{c}", (4,), c, extra=("class_weight", "ignore"),
              want=("denominator", "count"))
    for c, v in ((2, 1), (7, 4), (8, 7), (16, 15), (17, 16), (33, 17), (65, 64), (300, 257)):
        build(f"size/vocab-{v}-of-{c}", (3,) if c < 60 else (1,), c,
              options={"vocab_size": v, "label_smoothing": 0.2, "reduction": "none"},
              want=("lse", "predicted") if c < 60 else ())
    for c, v in ((8, 5), (33, 32)):
        build(f"size/vocab-probability-{v}-of-{c}", (2,), c, "prob",
              options={"vocab_size": v, "label_smoothing": 0.2}, want="all")
        build(f"size/vocab-focal-{v}-of-{c}", (2,), c,
              options={"vocab_size": v, "focal_gamma": 1.5, "poly1": 0.5}, want="all")
    for n in (0, 1, 2, 5, 12):
        for reduction in ("none", "sum", "mean"):
            build(f"rows/{reduction}-{n}", (n,), 5, options={"reduction": reduction},
                  want=("count", "denominator", "nll"), ttype="i32" if n % 2 else "i64")
    build("rows/probability-mean-0", (0,), 4, "prob", want=("grad.targets", "count"))
    build("rows/probability-sum-12", (12,), 3, "prob", options={"reduction": "sum"}, want="all")


def layouts():
    """The class axis last or second, one to five axes, both integer types."""
    shapes = [((), -1), ((4,), -1), ((4,), 1), ((2, 3), -1), ((2, 3), 1), ((2, 2, 3), -1),
              ((2, 2, 3), 1), ((1, 2, 1, 3), 1), ((2, 0), 1), ((2, 17), 1)]
    for (rows, dim), form in itertools.product(shapes, ("index", "prob")):
        where = "second" if dim == 1 else "last"
        shape = "x".join(str(n) for n in rows) or "one"
        for reduction in ("none", "mean"):
            name = f"layout/{form}-{shape}-{where}-{reduction}"
            build(name, rows, 5, form, dim, {"reduction": reduction},
                  want="all" if reduction == "none" else (), ttype="i32",
                  extra=("grad_output",) if reduction == "none" else ())
    for dim in (-1, 1):
        where = "second" if dim == 1 else "last"
        build(f"layout/everything-{where}", (2, 3, 2), 6, "index", dim,
              {"label_smoothing": 0.1, "softcap": 3, "z_loss": 0.02, "logit_scale": 1.5,
               "vocab_size": 5}, ("class_weight", "sample_weight", "mask", "ignore",
                                  "grad_output"), "all")
        build(f"layout/focal-poly1-{where}", (2, 3), 4, "index", dim,
              {"focal_gamma": 2, "poly1": 1, "reduction": "sum"}, ("mask",), "all")
        build(f"layout/probability-everything-{where}", (2, 5), 6, "prob", dim,
              {"label_smoothing": 0.25, "z_loss": 0.02, "subtract_entropy": "true",
               "vocab_size": 5, "reduction": "none"},
              ("class_weight", "sample_weight", "mask", "grad_output"), "all")


ALONE = {
    "class-weight": ({}, "class_weight"),
    "sample-weight": ({}, "sample_weight"),
    "mask": ({}, "mask"),
    "ignore": ({}, "ignore"),
    "ignore-index": ({"ignore_index": "2"}, None),
    "vocab": ({"vocab_size": "4"}, None),
    "uniform": ({"label_smoothing": "0.1", "smoothing_mode": "uniform"}, None),
    "others": ({"label_smoothing": "0.15", "smoothing_mode": "others"}, None),
    "scale": ({"logit_scale": "0.7"}, None),
    "softcap": ({"softcap": "2.5"}, None),
    "z-loss": ({"z_loss": "0.05"}, None),
    "focal": ({"focal_gamma": "1.5"}, None),
    "poly1": ({"poly1": "-0.5"}, None),
    "entropy": ({"subtract_entropy": "true"}, None),
    "num-items": ({"num_items": "6.5"}, None),
    "grad-output": ({}, "grad_output"),
}
INDEX_ONLY = {"ignore", "ignore-index", "others", "focal", "poly1"}


def legal(names, form, reduction):
    names = set(names)
    if form == "prob" and names & INDEX_ONLY:
        return False
    if names & {"focal", "poly1"} and names & {"uniform", "others"}:
        return False
    if "num-items" in names and reduction != "mean":
        return False
    return not ({"uniform", "others"} <= names or {"ignore", "ignore-index"} <= names)


def combine(name, names, form, reduction, rows, classes, dim, want, ttype="i64"):
    options, extra = {"reduction": reduction}, []
    for one in names:
        options.update(ALONE[one][0])
        if ALONE[one][1]:
            extra.append(ALONE[one][1])
    if "vocab" in names:
        options["vocab_size"] = str(max(3, classes - 2))
    return build(name, rows, classes, form, dim, options, tuple(extra), want, ttype=ttype)


def singles():
    """Every option by itself, in both forms, under every reduction."""
    for (name, form), reduction in itertools.product(
            itertools.product(ALONE, ("index", "prob")), ("none", "sum", "mean")):
        if legal([name], form, reduction):
            want = "all" if reduction == "none" else ("z_loss", "denominator", "count")
            combine(f"one/{form}-{name}-{reduction}", [name], form, reduction, (4,), 6, -1, want)


def pairs():
    """Every two options that go together."""
    turn = itertools.cycle(("mean", "sum", "mean", "none"))
    forms = itertools.cycle(("index", "index", "prob"))
    for a, b in itertools.combinations(ALONE, 2):
        reduction, form = next(turn), next(forms)
        if "num-items" in (a, b):
            reduction = "mean"
        if not legal([a, b], form, reduction):
            form = "index"
        if legal([a, b], form, reduction):
            combine(f"two/{a}-{b}-{form}-{reduction}", [a, b], form, reduction, (4,), 5, -1,
                    ("z_loss", "denominator") if reduction != "none" else ())


def crowds():
    """Three to nine options at once, in any layout."""
    draw = Draw("crowds").random
    made = 0
    while made < 70:
        names = sorted(draw.sample(list(ALONE), draw.randrange(3, 10)))
        form = draw.choice(("index", "index", "prob"))
        reduction = draw.choice(("none", "sum", "mean", "mean"))
        if not legal(names, form, reduction):
            continue
        rows, dim = draw.choice((((5,), -1), ((3,), 1), ((2, 3), 1), ((2, 2), -1), ((), -1)))
        classes = draw.choice((3, 4, 5, 8, 11, 17))
        made += 1
        combine(f"many/{made:02d}-{form}-{reduction}", names, form, reduction, rows, classes, dim,
                "all" if made % 2 else (), draw.choice(("i64", "i32")))


def scaled():
    """target_scaling with every option that goes with it."""
    ALONE["scaling"] = ({"target_scaling": "1"}, None)
    ALONE["scaling-half"] = ({"target_scaling": "0.5"}, None)
    ALONE["scaling-more"] = ({"target_scaling": "2.25"}, None)
    others = [k for k in list(ALONE) if k not in ("uniform", "others", "focal", "poly1") and "scaling" not in k]
    for scaling in ("scaling", "scaling-half", "scaling-more"):
        for reduction in ("none", "sum", "mean"):
            combine(f"scaling/{scaling}-{reduction}", [scaling], "index", reduction, (4,), 6, -1,
                    ("nll", "z_loss", "denominator"))
        for other in others:
            combine(f"scaling/{scaling}-{other}", [scaling, other], "index", "mean", (3,), 5, -1, ())
    for classes in (1, 2, 17, 129, 600):
        combine(f"scaling/classes-{classes}", ["scaling"], "index", "mean", (3,), classes, -1, ())
    combine("scaling/strided", ["scaling", "class-weight"], "index", "none", (2, 3), 5, 1, ())
    impossible, e = Inputs(), None
    impossible.put("logits", torch.tensor([[-INF, 1.0, 0.5], [0.25, -INF, 1.0]], dtype=F64))
    impossible.put("targets", torch.tensor([0, 2]), "i64")
    for scaling in ("0.5", "1"):
        write(f"scaling/impossible-{scaling}", impossible, {"target_scaling": scaling, "reduction": "none"})


def types():
    """Inputs that have an element type of their own."""
    for kind in ("f64", "f32", "f16", "bf16"):
        build(f"type/index-{kind}", (4,), 5, options={"label_smoothing": 0.1}, kind=kind,
              extra=("class_weight", "sample_weight", "grad_output"), want=("denominator",))
        build(f"type/probability-{kind}", (2, 3), 5, "prob", 1, {"reduction": "none"}, kind=kind,
              extra=("class_weight", "sample_weight", "grad_output"), want=("grad.targets",))
    x = [[0.5, -1.0, 2.0], [1.5, 0.25, -0.5], [-1.0, 3.0, 0.0]]
    write("type/mask-u8-any-byte", given(x, [0, 2, 1], mask=([255, 0, 2], "u8")), {}, ("count",))
    write("type/mask-bool", given(x, [0, 2, 1], mask=[True, False, True]), {}, ("count",))
    write("type/grad-output-one-element", given(x, [0, 2, 1], grad_output=[0.5]), {})
    write("type/integers-do-not-wrap", given(x, [0, 2, 1], "i32"),
          {"ignore_index": str(2**32)}, ("count", "nll"))
    write("type/ignore-beyond-i32", given(x, [0, 2**40, 1]), {"ignore_index": str(2**40)},
          ("count", "nll"))
    write("type/ignore-lowest", given(x, [-(2**63), 2, 1]), {"ignore_index": str(-(2**63))},
          ("count", "predicted"))
    write("type/ignore-highest", given(x, [2**63 - 1, 2, 1]), {"ignore_index": str(2**63 - 1)},
          ("count", "predicted"))
    write("type/ignore-lowest-i32", given(x, [-(2**31), 2, 1], "i32"),
          {"ignore_index": str(-(2**31))}, ("count", "predicted"))


def infinities():
    """Section 0.6, row by row, under every reduction."""
    x = [[0.5, -1.0, 2.0, 0.25], [1.5, 0.25, -0.5, 1.0], [-1.0, 1.5, 0.0, 0.75]]

    def spoilt(row, **at):
        out = [list(r) for r in x]
        for key, value in at.items():
            out[row][int(key[1:])] = value
        return out

    y = [0, 3, 1]
    kinds = {
        "minus-inf-elsewhere": spoilt(1, k0=-INF, k2=-INF),
        "minus-inf-at-target": spoilt(1, k3=-INF),
        "minus-inf-all": spoilt(1, k0=-INF, k1=-INF, k2=-INF, k3=-INF),
        "only-target-finite": spoilt(1, k0=-INF, k1=-INF, k2=-INF),
        "only-another-finite": spoilt(1, k0=-INF, k1=-INF, k3=-INF),
        "inf": spoilt(1, k2=INF),
        "inf-at-target": spoilt(1, k3=INF),
        "inf-and-minus-inf": spoilt(1, k0=INF, k1=-INF),
        "nan": spoilt(1, k0=NAN),
        "nan-at-target": spoilt(1, k3=NAN),
        "nan-and-minus-inf": spoilt(1, k0=-INF, k1=NAN, k2=-INF, k3=-INF),
    }
    for name, logits in kinds.items():
        for reduction in ("none", "sum", "mean"):
            options = {"reduction": reduction}
            want = ("count", "denominator") if reduction == "mean" else ()
            if name.startswith(("minus-inf-at", "minus-inf-else", "only")):
                want += ("nll", "lse", "entropy", "predicted", "perplexity", "accuracy")
            elif name.startswith("nan") and reduction == "none":
                want += ("nll", "lse", "entropy")
            write(f"nonfinite/{name}-{reduction}", given(logits, y), options, want)
        write(f"nonfinite/{name}-ignored", given(logits, [0, -100, 1]), {}, INDEX_WANTS)
        write(f"nonfinite/{name}-masked", given(logits, y, mask=[True, False, True]),
              {"reduction": "sum", "z_loss": "0.1", "softcap": "3"}, INDEX_WANTS)
        write(f"nonfinite/{name}-smoothing", given(logits, y),
              {"label_smoothing": "0.1", "reduction": "none"})
        write(f"nonfinite/{name}-z-loss", given(logits, y), {"z_loss": "0.125"},
              ("z_loss", "denominator"))
    for name in ("minus-inf-elsewhere", "minus-inf-at-target", "only-target-finite", "nan",
                 "only-another-finite"):
        write(f"nonfinite/{name}-focal", given(kinds[name], y),
              {"reduction": "none", "focal_gamma": "2"})
        write(f"nonfinite/{name}-focal-half", given(kinds[name], y),
              {"reduction": "none", "focal_gamma": "0.5"})
        write(f"nonfinite/{name}-poly1", given(kinds[name], y),
              {"reduction": "none", "poly1": "2"})
        write(f"nonfinite/{name}-scaled", given(kinds[name], y), {"logit_scale": "2.5"})
    write("nonfinite/minus-inf-others-smoothing", given(kinds["minus-inf-elsewhere"], y),
          {"reduction": "none", "label_smoothing": "0.3", "smoothing_mode": "others"})
    for name in ("minus-inf-elsewhere", "minus-inf-at-target", "minus-inf-all"):
        write(f"nonfinite/{name}-softcap", given(kinds[name], y),
              {"reduction": "none", "softcap": "3"}, INDEX_WANTS)
    write("nonfinite/nan-softcap", given(kinds["nan"], y), {"reduction": "none", "softcap": "3"})
    write("nonfinite/padding-classes", given(
        [[0.5, -1.0, NAN, INF], [1.5, 0.25, -INF, NAN]], [0, 1]),
        {"vocab_size": "2", "reduction": "none"}, INDEX_WANTS)
    write("nonfinite/nan-beside-padding", given(
        [[0.5, NAN, 1.0, INF], [1.5, 0.25, -INF, NAN]], [0, 1]),
        {"vocab_size": "2", "reduction": "none"})
    write("nonfinite/weight-0-at-impossible-target",
          given(kinds["minus-inf-at-target"], y, class_weight=[1.0, 2.0, 0.5, 0.0]), {},
          ("denominator", "nll"))
    write("nonfinite/weight-0-at-impossible-class",
          given(spoilt(1, k2=-INF), y, class_weight=[1.0, 2.0, 0.0, 0.5]),
          {"label_smoothing": "0.1", "reduction": "none"}, ("denominator",))
    write("nonfinite/grad-output", given(kinds["minus-inf-at-target"], y,
                                         grad_output=[1.0, -2.0, 0.5]), {"reduction": "none"})
    t = [[0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.0, 0.5], [0.0, 1.0, 0.0, 0.0]]
    for name in ("minus-inf-elsewhere", "minus-inf-at-target", "minus-inf-all", "inf", "nan"):
        for reduction in ("none", "mean"):
            write(f"nonfinite/probability-{name}-{reduction}", given(kinds[name], t),
                  {"reduction": reduction}, ("denominator",))
        write(f"nonfinite/probability-{name}-masked",
              given(kinds[name], t, mask=[True, False, True]), {"reduction": "sum"},
              PROBABILITY_WANTS + ["grad.targets"])
    write("nonfinite/probability-nan-grad-targets", given(kinds["nan"], t),
          {"reduction": "none"}, ("grad.targets",))
    write("nonfinite/probability-mass-on-impossible", given(
        spoilt(1, k1=-INF), t), {"reduction": "none"}, ("grad.targets",))
    write("nonfinite/probability-targets-masked", given(
        x, [t[0], [NAN, INF, 0.0, -INF], t[2]], mask=[True, False, True]), {}, ("grad.targets",))
    write("nonfinite/several-rows", given(
        [[NAN, 1.0], [0.5, -INF], [0.5, -INF], [INF, 0.0], [-INF, -INF], [1.0, -1.0]],
        [0, 1, 0, 0, 1, 0]), {"reduction": "none"})
    write("nonfinite/second-axis", given(
        [[[NAN, 1.0, -INF], [0.5, -INF, -INF]], [[2.0, INF, 0.5], [-INF, 0.0, 1.0]]],
        [[0, 1, 1], [1, 1, -100]]), {"reduction": "none", "class_dim": "1"})


def empty():
    """Means of nothing."""
    x = [[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]]
    for value in ("zero", "nan"):
        mode = {"empty_mean": value}
        write(f"empty/all-ignored-{value}", given(x, [-100, -100]), mode,
              ("nll", "lse", "entropy", "predicted", "count", "denominator"))
        write(f"empty/all-masked-{value}", given(x, [0, 1], mask=[False, False]), mode,
              ("count", "denominator"))
        write(f"empty/no-rows-{value}", no_rows(), mode,
              ("count", "denominator"))
        write(f"empty/sample-weights-0-{value}", given(x, [0, 1], sample_weight=[0.0, 0.0]), mode,
              ("count", "denominator", "nll"))
        write(f"empty/class-weights-0-{value}",
              given(x, [0, 1], class_weight=[0.0, 0.0, 2.0]), mode, ("count", "denominator"))
        write(f"empty/class-weights-0-z-loss-{value}",
              given(x, [0, 1], class_weight=[0.0, 0.0, 2.0]), {**mode, "z_loss": "0.1"},
              ("count", "denominator", "z_loss"))
        write(f"empty/class-weights-0-smoothing-{value}",
              given(x, [0, 1], class_weight=[0.0, 0.0, 2.0]), {**mode, "label_smoothing": "0.1"},
              ("denominator",))
        write(f"empty/all-ignored-z-loss-{value}", given(x, [-100, -100]),
              {**mode, "z_loss": "0.1"}, ("z_loss",))
        write(f"empty/all-ignored-num-items-{value}", given(x, [-100, -100]),
              {**mode, "num_items": "3"}, ("denominator", "count"))
        write(f"empty/probability-masked-{value}",
              given(x, [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], mask=[False, False]), mode,
              ("count", "denominator", "grad.targets"))
        write(f"empty/all-ignored-sum-{value}", given(x, [-100, -100]),
              {**mode, "reduction": "sum"}, ("count",))
    write("empty/nan-rows-all-ignored", given([[NAN, NAN], [INF, -INF]], [-100, -100]), {},
          ("lse", "nll", "entropy", "predicted", "count"))
    write("empty/all-ignored-none", given(x, [-100, -100]), {"reduction": "none"}, ("count",))
    write("empty/probability-class-weights-0", given(
        x, [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], class_weight=[0.0, 0.0, 0.0]), {},
        ("denominator",))


def no_rows():
    inputs = Inputs()
    inputs.put("logits", torch.zeros(0, 3, dtype=F64))
    inputs.put("targets", torch.zeros(0, dtype=torch.int64), "i64")
    return inputs


def edges():
    """The corners of section 1."""
    x = [[0.5, -1.0, 2.0], [1.5, 0.25, -0.5], [-1.0, 3.0, 0.0], [0.0, 0.0, 1.0]]
    write("edge/ignore-inside", given(x, [0, 2, 1, 2]), {"ignore_index": "2"}, INDEX_WANTS)
    write("edge/ignore-inside-smoothing", given(x, [0, 2, 1, 2]),
          {"ignore_index": "2", "label_smoothing": "0.2"}, ("count", "denominator"))
    write("edge/ignore-inside-weighted", given(x, [0, 2, 1, 2], class_weight=[0.5, 1.0, 2.0]),
          {"ignore_index": "2"}, ("count", "denominator"))
    write("edge/ignore-is-padding", given(x, [0, 2, 1, 2]),
          {"ignore_index": "2", "vocab_size": "2"}, ("count", "nll"))
    write("edge/ignore-minus-1", given(x, [0, -1, 1, -1]), {"ignore_index": "-1"}, INDEX_WANTS)
    for mode in ("uniform", "others"):
        write(f"edge/all-smoothing-{mode}", given(x, [0, 2, 1, 2]),
              {"label_smoothing": "1", "smoothing_mode": mode}, INDEX_WANTS)
        write(f"edge/no-smoothing-{mode}", given(x, [0, 2, 1, 2]),
              {"label_smoothing": "0", "smoothing_mode": mode})
        write(f"edge/two-classes-{mode}", given([[-0.5, 0.5], [-0.5, 1.0]], [0, 0]),
              {"label_smoothing": "0.3", "smoothing_mode": mode, "reduction": "none"})
    write("edge/all-smoothing-probability",
          given(x[:2], [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]), {"label_smoothing": "1"},
          ("grad.targets",))
    for c in ({}, {"label_smoothing": "0.5"}, {"z_loss": "0.5"}, {"focal_gamma": "0.5"},
              {"poly1": "2"}, {"softcap": "2"}, {"subtract_entropy": "true"}):
        name = "-".join(c) or "plain"
        write(f"edge/one-class-{name}", given([[3.0], [-2.0]], [0, 0]), {"reduction": "none", **c},
              ("nll", "lse", "entropy", "predicted", "accuracy", "perplexity"))
    write("edge/one-class-alone", given([5.0], 0), {}, ("predicted", "lse"))
    write("edge/vocab-of-one", given(x, [0, 0, 0, 0]), {"vocab_size": "1"}, INDEX_WANTS)
    write("edge/vocab-all", given(x, [0, 2, 1, 2]), {"vocab_size": "3"})
    write("edge/ties", given([[1.0, 2.0, 2.0, 2.0], [0.5, 0.5, 0.5, 0.5], [-1.0, -1.0, -2.0, -1.0]],
                             [2, 0, 1]), {"reduction": "none"}, INDEX_WANTS)
    write("edge/probability-unnormalised",
          given(x[:3], [[2.0, 1.0, 0.5], [0.25, 0.0, 0.0], [0.0, 0.0, 0.0]]),
          {"reduction": "none"}, ("grad.targets",))
    write("edge/probability-unnormalised-z-loss",
          given(x[:3], [[2.0, 1.0, 0.5], [0.25, 0.0, 0.0], [0.0, 0.0, 0.0]],
                class_weight=[0.5, 2.0, 1.0]),
          {"z_loss": "0.1", "label_smoothing": "0.1"}, ("grad.targets", "denominator"))
    write("edge/probability-one-hot", given(x[:3], [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0],
                                                    [0.0, 0.0, 1.0]]),
          {"subtract_entropy": "true"}, ("denominator",))
    write("edge/weights-some-0", given(x, [0, 2, 1, 2], class_weight=[0.0, 1.5, 0.5],
                                       sample_weight=[1.0, 0.0, 2.0, 0.5]), {}, INDEX_WANTS)
    write("edge/weights-some-0-smoothing",
          given(x, [0, 1, 2, 2], class_weight=[0.0, 1.5, 0.5]), {"label_smoothing": "0.1"},
          ("denominator",))
    write("edge/grad-output-0", given(x, [0, 2, 1, 2], grad_output=[0.0, 1.0, -1.0, 0.0]),
          {"reduction": "none"})
    write("edge/grad-output-large", given(x, [0, 2, 1, 2], grad_output=128.0), {})
    write("edge/num-items-small", given(x, [0, 2, 1, 2]), {"num_items": "0.5"}, ("denominator",))
    write("edge/num-items-large", given(x, [0, -100, 1, 2], class_weight=[0.5, 1.0, 2.0]),
          {"num_items": "1000", "z_loss": "0.1"}, ("denominator", "z_loss"))
    write("edge/softcap-off", given(x, [0, 2, 1, 2]), {"softcap": "off", "num_items": "off"})
    write("edge/focal-below-1", given(x, [0, 2, 1, 2]), {"focal_gamma": "0.5"})
    write("edge/focal-1", given(x, [0, 2, 1, 2], class_weight=[0.5, 1.0, 2.0]),
          {"focal_gamma": "1"})
    write("edge/focal-5-poly1-negative", given(x, [0, 2, 1, 2]),
          {"focal_gamma": "5", "poly1": "-1", "reduction": "none"})

    big = [[80.0, -80.0, 0.0, 80.0], [-80.0, 80.0, 0.5, 1.0], [-80.0, -80.0, -80.0, -79.0],
           [80.0, 79.0, 78.0, 77.5]]
    confident = [[80.0, -80.0, 0.0, 1.0], [20.0, 0.0, -1.0, 0.5], [0.0, 40.0, 1.0, -1.0],
                 [12.0, 0.5, 0.0, 2.0]]
    sure = [0, 0, 1, 0]
    for reduction in ("none", "mean"):
        options = {"reduction": reduction}
        write(f"large/logits-{reduction}", given(big, [0, 0, 3, 1]), options, INDEX_WANTS)
        write(f"large/logits-smoothing-{reduction}", given(big, [0, 0, 3, 1]),
              {**options, "label_smoothing": "0.1"})
        write(f"large/logits-z-loss-{reduction}", given(big, [0, 0, 3, 1]),
              {**options, "z_loss": "0.001"}, ("z_loss",))
        write(f"large/confident-{reduction}", given(confident, sure), options, INDEX_WANTS)
        write(f"large/confident-focal-{reduction}", given(confident, sure),
              {**options, "focal_gamma": "2"})
        write(f"large/confident-poly1-{reduction}", given(confident, sure),
              {**options, "poly1": "1"})
        write(f"large/confident-weighted-{reduction}",
              given(confident, sure, class_weight=[2.0, 0.5, 1.0, 1.0]), options)
        write(f"large/wrong-{reduction}", given(confident, [1, 1, 0, 2]), options, INDEX_WANTS)
    write("large/softcap", given(big, [0, 0, 3, 1]), {"softcap": "30", "reduction": "none"},
          ("lse", "nll"))
    write("large/softcap-scaled", given([[80.0, -80.0, 20.0, 10.0], [5.0, 30.0, -40.0, 0.0]],
                                        [2, 3]),
          {"softcap": "15", "logit_scale": "0.5", "reduction": "none"}, ("lse", "nll"))
    write("large/scale-cold", given(x, [0, 2, 1, 2]), {"logit_scale": "20", "reduction": "none"},
          ("lse", "nll", "entropy"))
    write("large/scale-hot", given(big, [0, 0, 3, 1]), {"logit_scale": "0.01"}, ("lse", "nll"))
    write("large/spread-300", spread_wide(), {"reduction": "none"}, ("lse", "entropy"))
    write("large/probability", given(big, [[0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0],
                                           [0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.5, 0.0]]),
          {"reduction": "none"}, ("grad.targets",))


def spread_wide():
    draw = Draw("spread-wide")
    inputs = Inputs()
    inputs.put("logits", draw.between((2, 300), -60, 60))
    inputs.put("targets", draw.integers((2,), 0, 300), "i64")
    return inputs


def main():
    checks()
    sizes()
    layouts()
    singles()
    pairs()
    crowds()
    scaled()
    types()
    infinities()
    empty()
    edges()
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cross_entropy.jsonl")
    BOOK.write(path)
    print(f"{len(BOOK.lines)} cases, {os.path.getsize(path)} bytes, "
          f"{sum(CONFIRMED)} confirmed by torch's own cross_entropy")


if __name__ == "__main__":
    main()
