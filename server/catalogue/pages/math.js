/* The LaTeX of the descriptions as MathML: letters, numbers, scripts, fractions, sums, functions, delimiters, words,
 * cases and aligned lines. Throws where there is something else. */

const typeset = (() => {
  const LETTERS = { alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ϵ", varepsilon: "ε", zeta: "ζ", eta: "η", theta: "θ", kappa: "κ", lambda: "λ", mu: "μ", nu: "ν", xi: "ξ", pi: "π", rho: "ρ", sigma: "σ", tau: "τ", phi: "ϕ", varphi: "φ", chi: "χ", psi: "ψ", omega: "ω", Gamma: "Γ", Delta: "Δ", Theta: "Θ", Lambda: "Λ", Sigma: "Σ", Phi: "Φ", Psi: "Ψ", Omega: "Ω", ell: "ℓ", infty: "∞" };
  const SIGNS = { cdot: "⋅", times: "×", le: "≤", leq: "≤", lt: "<", ge: "≥", geq: "≥", gt: ">", ne: "≠", neq: "≠", in: "∈", notin: "∉", pm: "±", to: "→", sim: "∼", approx: "≈", mid: "∣", parallel: "∥", dots: "…", ldots: "…", cdots: "⋯", partial: "∂", nabla: "∇", top: "⊤", cap: "∩", cup: "∪", odot: "⊙", oplus: "⊕", circ: "∘", star: "⋆", ast: "∗", prime: "′", perp: "⊥", neg: "¬", wedge: "∧", vee: "∨", forall: "∀", exists: "∃", subset: "⊂", subseteq: "⊆", setminus: "∖", ll: "≪", gg: "≫", propto: "∝", equiv: "≡", gets: "←", leftarrow: "←", rightarrow: "→", mapsto: "↦", colon: ":" };
  const FENCES = { vert: "|", Vert: "‖", "|": "‖", lvert: "|", rvert: "|", lVert: "‖", rVert: "‖", lbrace: "{", rbrace: "}", "{": "{", "}": "}", lfloor: "⌊", rfloor: "⌋", lceil: "⌈", rceil: "⌉", langle: "⟨", rangle: "⟩" };
  const LARGE = { sum: "∑", prod: "∏", int: "∫" };
  const WORDS = ["log", "ln", "exp", "max", "min", "cos", "sin", "tanh", "arccos", "sinh", "cosh", "lim", "sup", "inf", "Pr", "det", "arg", "deg", "dim", "gcd", "ker"];
  const SPACES = { ",": 0.17, ":": 0.22, ";": 0.28, " ": 0.25, "!": -0.17, quad: 1, qquad: 2 };
  const ACCENTS = { hat: "^", widehat: "^", bar: "‾", overline: "‾", tilde: "~", vec: "→", dot: "˙" };

  const FRACTIONS = ["frac", "tfrac", "dfrac"];
  const VARIANTS = { mathbf: "bold", mathcal: "script", mathbb: "double-struck" };
  /* Letters of another face are characters of their own; where the first capital, small letter and digit are. */
  const FACES = { bold: [0x1d400, 0x1d41a, 0x1d7ce], script: [0x1d49c, 0x1d4b6], "double-struck": [0x1d538, 0x1d552, 0x1d7d8] };
  const OLDER = { "script B": "ℬ", "script E": "ℰ", "script F": "ℱ", "script H": "ℋ", "script I": "ℐ", "script L": "ℒ", "script M": "ℳ", "script R": "ℛ", "double-struck C": "ℂ", "double-struck H": "ℍ", "double-struck N": "ℕ", "double-struck P": "ℙ", "double-struck Q": "ℚ", "double-struck R": "ℝ", "double-struck Z": "ℤ" };
  const inFace = (letter, face) => {
    const kind = [/[A-Z]/, /[a-z]/, /\d/].findIndex((one) => one.test(letter));
    const first = kind < 0 ? undefined : FACES[face][kind];
    return OLDER[`${face} ${letter}`] ?? (first ? String.fromCodePoint(first + letter.charCodeAt(0) - "Aa0".charCodeAt(kind)) : letter);
  };

  const element = (name, ...children) => {
    const made = document.createElementNS("http://www.w3.org/1998/Math/MathML", name);
    made.append(...children);
    return made;
  };
  const row = (nodes) => (nodes.length === 1 ? nodes[0] : element("mrow", ...nodes));
  const sign = (text, attributes = {}) => {
    const made = element("mo", text);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const space = (width) => {
    const made = element("mspace");
    made.setAttribute("width", `${width}em`);
    return made;
  };

  class Reader {
    constructor(text) {
      this.text = text;
      this.at = 0;
    }

    fail(what) {
      throw new Error(`LaTeX, character ${this.at}: ${what}`);
    }

    /* The next command with its backslash, or character; white space is passed over. "" at the end. */
    peek() {
      this.at += /^\s*/.exec(this.text.slice(this.at))[0].length;
      return /^(\\[a-zA-Z]+|\\[^]|[^]|$)/u.exec(this.text.slice(this.at))[0];
    }

    next() {
      const token = this.peek();
      this.at += token.length;
      return token;
    }

    expect(token) {
      if (this.next() !== token) this.fail(`${token} is missing`);
    }

    /* The text between braces, as it is but for escapes. */
    words() {
      this.expect("{");
      const found = /^(?:[^{}\\]|\\[^])*/.exec(this.text.slice(this.at))[0];
      this.at += found.length;
      this.expect("}");
      return found.replace(/\\([^])/g, "$1");
    }

    group() {
      if (this.peek() !== "{") return this.atom();
      this.next();
      const inner = this.nodes(["}"]);
      this.expect("}");
      return row(inner);
    }

    nodes(ends) {
      const found = [];
      for (let token = this.peek(); token !== "" && !ends.includes(token); token = this.peek()) found.push(this.scripted());
      return found;
    }

    /* An atom with what stands above and below it. */
    scripted() {
      const base = this.atom();
      const large = base.getAttribute("largeop") === "true";
      let sub = null;
      let sup = null;
      for (let token = this.peek(); token === "_" || token === "^"; token = this.peek()) {
        this.next();
        if (token === "_") sub = this.group();
        else sup = this.group();
      }
      const [low, high, both] = large ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
      const whole = sub && sup ? element(both, base, sub, sup) : sub ? element(low, base, sub) : sup ? element(high, base, sup) : base;
      const spaced = base.dataset?.word && !"(^_),}".includes(this.peek()[0] ?? "}") && this.peek() !== "\\left";
      return spaced ? element("mrow", whole, space(0.17)) : whole;
    }

    fence() {
      const token = this.next();
      const name = token.replace(/^\\/, "");
      if (token.startsWith("\\") ? name in FENCES : "()[]|.".includes(name)) return FENCES[name] ?? name;
      return this.fail(`${token} is no delimiter`);
    }

    lines(name) {
      const rows = [];
      do {
        const cells = [];
        do cells.push(element("mtd", ...this.nodes(["&", "\\\\", "\\end"])));
        while (this.peek() === "&" && this.next());
        rows.push(element("mtr", ...cells));
      } while (this.peek() === "\\\\" && this.next());
      this.expect("\\end");
      if (this.words() !== name) this.fail(`${name} does not end`);
      const made = element("mtable", ...rows);
      made.setAttribute("class", name);
      if (name === "aligned") made.setAttribute("displaystyle", "true");
      return name === "cases" ? element("mrow", sign("{", { stretchy: "true" }), made) : made;
    }

    variant(face) {
      return element("mi", [...this.words()].map((letter) => inFace(letter, face)).join(""));
    }

    word(text) {
      const made = element("mi", text);
      made.dataset.word = "yes";
      return made;
    }

    atom() {
      const token = this.next();
      if (token === "{") {
        this.at--;
        return this.group();
      }
      if (!token.startsWith("\\")) {
        if (/\d/.test(token)) {
          this.at--;
          const number = /^\d+(\.\d+)?/.exec(this.text.slice(this.at))[0];
          this.at += number.length;
          return element("mn", number);
        }
        if (/\p{L}/u.test(token)) return element("mi", token);
        if (token === "" || "}^_&".includes(token)) this.fail(`"${token}" does not belong here`);
        return sign(token === "-" ? "−" : token, "()[]|".includes(token) ? { stretchy: "false" } : {});
      }
      const name = token.slice(1);
      if (name in LETTERS) return element("mi", LETTERS[name]);
      if (name in SIGNS) return sign(SIGNS[name]);
      if (name in FENCES) return sign(FENCES[name], { stretchy: "false", form: name.startsWith("r") ? "postfix" : "prefix" });
      if (name in SPACES) return space(SPACES[name]);
      if (name in LARGE) return sign(LARGE[name], { largeop: "true", movablelimits: "true" });
      if (WORDS.includes(name)) return this.word(name);
      if (name === "operatorname") return this.word(this.words());
      if (name === "text") return element("mtext", this.words().replace(/^ | $/g, "\u00a0"));
      if (name === "mathrm") return element("mtext", this.words());
      if (name in VARIANTS) return this.variant(VARIANTS[name]);
      if (FRACTIONS.includes(name)) return element("mfrac", this.group(), this.group());
      if (name === "sqrt") return element("msqrt", this.group());
      if (name in ACCENTS) return element("mover", this.group(), sign(ACCENTS[name], { stretchy: "false" }));
      if ("_%#&$".includes(name)) return element("mtext", name);
      if (name === "begin") {
        const kind = this.words();
        if (kind === "cases" || kind === "aligned") return this.lines(kind);
      }
      if (name === "left") {
        const [open, inner] = [this.fence(), this.nodes(["\\right"])];
        this.expect("\\right");
        const close = this.fence();
        const edge = (text) => (text === "." ? [] : [sign(text, { stretchy: "true" })]);
        return element("mrow", ...edge(open), ...inner, ...edge(close));
      }
      return this.fail(`${token} is not known`);
    }
  }

  return (tex) => {
    const reader = new Reader(tex);
    const math = element("math", ...reader.nodes([]));
    math.setAttribute("displaystyle", "true");
    return math;
  };
})();
