// How a model is called, as text to copy; and asking again when something has changed.
import { useState, useEffect } from "./vendor/preact-htm.js";

const VALUES_MOST = 32;

function sample(spec) {
  const shape = spec.shape.map((axis) => Math.max(axis, 1));
  const count = shape.reduce((all, axis) => all * axis, 1);
  const zero = { BYTES: "", BOOL: false }[spec.datatype] ?? 0;
  return { name: spec.name, datatype: spec.datatype, shape, data: Array(Math.min(count, VALUES_MOST)).fill(zero), count };
}

// One row of zeros, whole.
export function asBody(signature) {
  const inputs = signature.inputs.map(sample).map(({ count, ...input }) => ({ ...input, data: Array(count).fill(input.data[0]) }));
  return { inputs };
}

const root = () => location.href.replace(/\/console\/.*$/, "");

export function asCurl(model, signature) {
  const inputs = signature.inputs.map(sample);
  const cut = inputs.filter((input) => input.count > VALUES_MOST);
  const body = JSON.stringify({ inputs: inputs.map(({ count, ...input }) => input) });
  const note = cut.map((input) => `# ${input.name} takes ${input.count} values: the first ${VALUES_MOST} stand here\n`).join("");
  return `${note}curl -H 'Content-Type: application/json' '${root()}/v2/models/${model}/infer' -d '${body}'`;
}

export function asPython(model, signature) {
  const lines = signature.inputs.map(sample).map((input) => {
    const zero = { BYTES: '""', BOOL: "False" }[input.datatype] ?? "0";
    return `    {"name": "${input.name}", "datatype": "${input.datatype}", "shape": ${JSON.stringify(input.shape)}, "data": [${zero}] * ${input.count}},`;
  });
  return `import requests\n\ninputs = [\n${lines.join("\n")}\n]\nanswer = requests.post("${root()}/v2/models/${model}/infer", json={"inputs": inputs})\nprint(answer.json())`;
}

// What `ask` answers, asked anew whenever `mark` changes; the last answer stays meanwhile.
export function useAsked(ask, mark) {
  const [state, set] = useState({ answer: null, refused: null });
  useEffect(() => {
    let there = true;
    ask().then(
      (answer) => there && set({ answer, refused: null }),
      (refused) => there && set((before) => ({ answer: before.answer, refused })),
    );
    return () => (there = false);
  }, [mark]);
  return state;
}
