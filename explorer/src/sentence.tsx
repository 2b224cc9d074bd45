// A sentence of one's own: what is active where, and what happens when latents are switched off.
import { useState } from "preact/hooks";
import { number, percent, shown } from "./format";
import { Contributions } from "./neuron";
import { Card, LatentLink, NeuronLink, Waiting, useLoaded, usePane } from "./parts";
import type { Ablation, Sentence, SentenceToken, TokenNeurons } from "./types";

const MOST = 2000;
const COLOURS: Record<string, string> = {
  interaction: "Interaction I",
  error: "Keep-largest error",
  loss: "Surprise",
  latent: "One latent",
};

export function SentencePage() {
  const pane = usePane(), { options, dictionary } = pane.route, live = pane.source.live;
  const [draft, setDraft] = useState(options.text ?? "");
  if (!live || !pane.manifest.live) {
    return (
      <>
        <div class="title"><h1>A sentence of your own</h1></div>
        <p class="lead">This needs the language model, and these pages are files alone. Start the explorer where the run is:</p>
        <pre><code>crossproof explore RUN</code></pre>
      </>
    );
  }
  const set = (changed: Record<string, string>) => pane.go({ ...pane.route, options: { ...options, ...changed } }, true);
  return (
    <>
      <div class="title"><h1>A sentence of your own</h1></div>
      <form class="sentence" onSubmit={(event) => { event.preventDefault(); set({ text: draft, at: "", off: "" }); }}>
        <label><span class="sr">Sentence</span>
          <textarea dir="auto" rows={3} maxLength={MOST} value={draft} placeholder="Once upon a time …" onInput={(event) => setDraft(event.currentTarget.value)}
            onKeyDown={(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.form!.requestSubmit(); }} />
        </label>
        <button type="submit" class="primary" disabled={draft.trim() === ""}>Read</button>
      </form>
      {options.text && <Read key={`${dictionary}${options.text}`} text={options.text} set={set} />}
    </>
  );
}

function Read({ text, set }: { text: string; set(changed: Record<string, string>): void }) {
  const { source, route } = usePane(), { dictionary, options } = route;
  const loaded = useLoaded<Sentence>(() => source.live!.sentence(dictionary, text), [dictionary, text]);
  const sentence = loaded.value;
  if (!sentence) return <Waiting of={loaded} />;
  const by = options.by && COLOURS[options.by] ? options.by : "interaction";
  const latent = Number(options.latent ?? -1), at = options.at ? Number(options.at) : null;
  const value = (token: SentenceToken) =>
    by === "latent" ? token.latents.find(([id]) => id === latent)?.[1] ?? 0 : Number(token[by as "loss"] ?? 0);
  const most = Math.max(1e-30, ...sentence.tokens.map((token) => Math.abs(value(token))));
  const token = at === null ? null : sentence.tokens[at];
  return (
    <>
      <Card title="Tokens" note="Choose a token to open it.">
        <div class="controls">
          <label class="field">Colour
            <select value={by} onChange={(event) => set({ by: event.currentTarget.value })}>
              {Object.entries(COLOURS).map(([key, name]) => <option key={key} value={key}>{name}</option>)}
            </select></label>
          {by === "latent" && <label class="field">Latent <input type="number" min={0} value={latent >= 0 ? latent : ""} onChange={(event) => set({ latent: event.currentTarget.value })} /></label>}
        </div>
        <p class="tokens" dir="auto">
          {sentence.tokens.map((each, index) => (
            <button type="button" key={index} aria-pressed={index === at} disabled={!each.scored}
              title={each.scored ? `${COLOURS[by]} ${number(value(each))}` : "not encoded: the first position and special tokens never count"}
              style={{ "--a": (Math.abs(value(each)) / most).toFixed(2) } as unknown as string}
              onClick={() => set({ at: `${index}`, off: "" })}>{shown(each.text)}<span class="sr"> {number(value(each))}</span></button>
          ))}
        </p>
      </Card>
      {token && at !== null && <Token key={at} text={text} at={at} token={token} set={set} />}
    </>
  );
}

function Token({ text, at, token, set }: { text: string; at: number; token: SentenceToken; set(changed: Record<string, string>): void }) {
  const { source, route, manifest } = usePane(), { dictionary, options } = route;
  const off = (options.off ?? "").split("-").filter(Boolean).map(Number);
  const neurons = useLoaded<TokenNeurons>(() => source.live!.token(dictionary, text, at), [dictionary, text, at]);
  const without = useLoaded<Ablation>(() => source.live!.without(dictionary, text, at, off), [dictionary, text, at, off]);
  const toggle = (id: number) =>
    set({ off: (off.includes(id) ? off.filter((each) => each !== id) : [...off, id]).join("-") });
  const most = Math.max(1e-30, ...token.latents.map(([, value]) => Math.abs(value)));
  const after = without.value;
  return (
    <div class="columns">
      <aside aria-label="Latents of the token">
        <Card title="Active latents" note="Untick one to take what it writes out of the model’s activations at this token.">
          <ul class="bars checks">
            {token.latents.map(([id, value]) => (
              <li key={id}>
                <span class="label"><input type="checkbox" checked={!off.includes(id)} onChange={() => toggle(id)} aria-label={`Latent ${id} on`} /> <LatentLink id={id} /></span>
                <span class="track" aria-hidden="true"><span class="fill" style={{ width: `${100 * Math.abs(value) / most}%`, "--tone": "var(--c1)" } as unknown as string} /></span>
                <span class="value">{number(value)}</span>
              </li>
            ))}
          </ul>
          {token.latents.length === 0 && <p class="quiet">None is active here.</p>}
        </Card>
        <Card title="Next token" note={off.length ? `Without ${off.join(", ")}: ${after ? number(after.divergence) : "…"} nats of KL from before.` : "Untick latents to see it change."}>
          {after ? (
            <ul class="bars next" aria-live="polite">
              {after.next.map(([word, before, now]) => (
                <li key={word}>
                  <span class="label"><code dir="auto">{shown(word)}</code></span>
                  <span class="track" aria-hidden="true">
                    <span class="fill before" style={{ width: `${100 * before}%` }} />
                    {off.length > 0 && <span class="fill now" style={{ width: `${100 * now}%` }} />}
                  </span>
                  <span class="value">{percent(before)}{off.length > 0 && ` → ${percent(now)}`}</span>
                </li>
              ))}
            </ul>
          ) : <Waiting of={without} />}
        </Card>
      </aside>
      <div class="main">
        <Card title={`Neurons at “${token.text.trim() || "·"}”`} note="Of each block the neurons whose contributions are largest, ‖o‖ counted.">
          {neurons.value ? (
            <div class="plots">
              {neurons.value.neurons.map((each) => (
                <figure key={`${each.block}.${each.neuron}`}>
                  <figcaption><strong>neuron <NeuronLink neuron={each} /></strong><span class="quiet">‖o‖ = {number(each.norm)}</span></figcaption>
                  <Contributions stack={each} facts={manifest.dictionaries[dictionary]} name={`Neuron ${each.block}.${each.neuron}`} />
                </figure>
              ))}
              {neurons.value.neurons.length === 0 && <p class="quiet">No MLP reads this dictionary.</p>}
            </div>
          ) : <Waiting of={neurons} />}
        </Card>
      </div>
    </div>
  );
}

