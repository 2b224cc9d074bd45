// One latent: where it is active, whom it meets, what it writes.
import { useState } from "preact/hooks";
import { Bars, Histogram } from "./charts";
import { count, number, percent, plural, shown } from "./format";
import {
  Card, Excerpt, Figures, LatentLink, Link, NeuronLink, PairLink, Waiting,
  largest, markdown, table, useLoaded, usePane,
} from "./parts";
import type { Context, Dictionary, LatentPage, Partner } from "./types";

const GROUPS: Record<string, string> = {
  top: "Strongest",
  3: "Peaks in the upper quarter of the range",
  2: "Third quarter",
  1: "Second quarter",
  0: "Lowest quarter",
};

export function Latent() {
  const { source, manifest, route } = usePane();
  const [id] = route.ids, { dictionary } = route;
  const loaded = useLoaded(() => source.page<LatentPage>(dictionary, "latent", id), [dictionary, id]);
  const page = loaded.value, facts = manifest.dictionaries[dictionary];
  if (!page || page.latent !== id) return <Waiting of={loaded} />;
  return (
    <>
      <div class="title">
        <h1>Latent {id}</h1>
        <nav aria-label="Neighbouring latents">
          {id > 0 && <Link to={{ view: "latent", ids: [id - 1] }} aria-label="Previous latent">←</Link>}
          {id + 1 < facts.latents && <Link to={{ view: "latent", ids: [id + 1] }} aria-label="Next latent">→</Link>}
        </nav>
        {page.cluster !== null && <span class="tag">cluster {page.cluster}</span>}
      </div>
      {page.explanation && <p class="lead" dir="auto">{page.explanation}</p>}
      <Figures items={figures(page, facts)} />
      <div class="columns">
        <div class="main">
          <Contexts page={page} />
          {facts.unread ? <Card title="Partners"><p class="quiet">{facts.unread}</p></Card> : <Partners page={page} facts={facts} />}
        </div>
        <aside aria-label="What the latent writes">
          <Card title="Activations" note={`Size at the ${plural(page.active, "token")} where it is active; four bins an octave.`}
            copy={{ CSV: () => table(["from", "count"], page.histogram, "CSV") }}>
            <Histogram bins={page.histogram} />
          </Card>
          <Logits page={page} />
          <Card title="Where it lives" note="Length of the decoder vector at each hookpoint, in units of typical activations."
            copy={{ CSV: () => table(["hookpoint", "norm"], page.norms.map((v, at) => [facts.hookpoints[at], v]), "CSV") }}>
            <Bars rows={page.norms.map((value, at) => [<code>{facts.hookpoints[at]}</code>, value])} />
          </Card>
          {page.neurons.length > 0 && (
            <Card title="Neurons it dominates" note={`Most often among the ${count(facts.detail_tokens)} tokens read twice; share of these tokens.`}>
              <Bars rows={page.neurons.map((each) => [<NeuronLink neuron={each} />, each.share])} format={percent} />
            </Card>
          )}
          <Card title="Similar decoder vectors" note="Cosine, all hookpoints together.">
            <Bars rows={page.nearest.map(([other, cosine]) => [<LatentLink id={other} />, cosine])} />
          </Card>
        </aside>
      </div>
    </>
  );
}

function figures(page: LatentPage, facts: Dictionary): [string, string, string?][] {
  const owned = Object.values(page.owned);
  return [
    ["active at", percent(page.frequency), `${count(page.active)} of ${count(page.tokens)} tokens`],
    ["mean when active", number(page.mean)],
    ["largest", number(page.largest)],
    ...(owned.length ? [
      ["I a token", number(page.interaction), "Interaction with all other latents, both directions, all blocks, mean over the tokens at which pairs are measured"],
      ["owns of neurons", percent(owned.reduce((a, b) => a + b, 0) / owned.length), "Share of (token, neuron) pairs at which it is dominant, mean over blocks"],
    ] as [string, string, string][] : []),
    ...(facts.joint ? [["relative norm", number(page.relative_norm), "Length of its decoder vectors in the second model over that in both: 0 is the first model’s alone, 1 the second’s"] as [string, string, string]] : []),
    ["tokens read", count(page.tokens)],
  ];
}

function Contexts({ page }: { page: LatentPage }) {
  const [all, setAll] = useState(false);
  const scale = [largest(page.contexts)];
  const groups = Object.keys(GROUPS).sort((a, b) => order(a) - order(b))
    .map((group) => [group, page.contexts.filter((each) => `${each.group}` === group)] as [string, Context[]])
    .filter(([, contexts]) => contexts.length > 0);
  const copy = {
    Markdown: () => page.contexts.map((each) => `* ${number(each.values[0][each.peak])}: ${markdown(each)}`).join("\n"),
    CSV: () => table(["group", "activation", "sequence", "position", "text"], page.contexts.map((each) =>
      [each.group ?? "", each.values[0][each.peak], each.sequence, each.position, each.tokens.join("")]), "CSV"),
  };
  return (
    <Card title="Contexts" copy={copy}
      note="Shading is the activation at each token, underlined its peak in the sequence; a sequence gives one context.">
      {groups.length === 0 && <p class="quiet">Never active in this text.</p>}
      {groups.map(([group, contexts]) => (
        <section key={group} aria-label={GROUPS[group]}>
          <h3>{GROUPS[group]}</h3>
          <ol class="contexts">
            {(all || group !== "top" ? contexts : contexts.slice(0, 6)).map((each) => (
              <li key={each.sequence}><span class="strength">{number(each.values[0][each.peak])}</span><Excerpt context={each} scale={scale} /></li>
            ))}
          </ol>
          {group === "top" && contexts.length > 6 && (
            <button type="button" class="more" aria-expanded={all} onClick={() => setAll(!all)}>
              {all ? "Fewer" : `All ${contexts.length}`}
            </button>
          )}
        </section>
      ))}
    </Card>
  );
}

const order = (group: string) => (group === "top" ? -1 : 3 - Number(group));

function Logits({ page }: { page: LatentPage }) {
  const { missing, hookpoint, promoted = [], suppressed = [] } = page.logits;
  if (missing) return <Card title="Next tokens"><p class="quiet">Not defined: {missing}</p></Card>;
  const copy = { CSV: () => table(["token", "logit"], [...promoted, ...suppressed], "CSV") };
  const rows = (list: [string, number][]) => list.map(([token, value]) =>
    [<code dir="auto">{shown(token)}</code>, value, value < 0 ? 1 : 0] as [preact.ComponentChildren, number, number]);
  return (
    <Card title="Next tokens" copy={copy} note={<>What its vector at <code>{hookpoint}</code> adds to logits directly, a unit of activation at norm one.</>}>
      <h3>Promoted</h3>
      <Bars rows={rows(promoted)} />
      <h3>Suppressed</h3>
      <Bars rows={rows(suppressed)} />
    </Card>
  );
}

const FORM_NOTES: Record<string, string> = {
  I: "Interaction: every latent but a neuron’s dominant one, by size",
  J: "Additive form: zero for latents that a neuron adds up",
  AND: "Gate times value: latents meeting on the two paths of gated neurons",
  Q: "Pair form: by the smaller contribution",
};

function Partners({ page, facts }: { page: LatentPage; facts: Dictionary }) {
  const [sort, setSort] = useState("I a token"), [all, setAll] = useState(false);
  const columns: [string, string, (each: Partner) => number | null][] = [
    ["I a token", "Mean over the tokens at which pairs are measured, both directions, all blocks", (each) => each.per_token],
    ["both active", "Tokens at which both are active", (each) => each.coactive],
    ...facts.forms.map((form) => [form, `${FORM_NOTES[form]}; mean over tokens with both active`, (each: Partner) => each.per_coactive[form]] as [string, string, (each: Partner) => number]),
    ["2nd diff.", "True non-additivity at the token’s other latents, mean over tokens with both active", (each) => each.second_difference],
  ];
  const of = columns.find(([name]) => name === sort)![2];
  const rows = [...page.partners].sort((a, b) => (of(b) ?? -1) - (of(a) ?? -1));
  const cells = () => rows.map((each) => [each.latent, ...columns.map(([, , value]) => value(each))]);
  const header = ["latent", ...columns.map(([name]) => name)];
  return (
    <Card title="Partners" copy={{ Markdown: () => table(header, cells(), "Markdown"), CSV: () => table(header, cells(), "CSV") }}
      note={`The latents it meets inside neurons. ${facts.pairs_complete ? "" : "Chosen from the pairs of the first part of the text, summed over all of it."}`}>
      {rows.length === 0 ? <p class="quiet">It meets no other latent in this text.</p> : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Partners">
          <table>
            <thead>
              <tr>
                <th scope="col">latent</th>
                {columns.map(([name, note]) => (
                  <th scope="col" key={name} class="n" aria-sort={name === sort ? "descending" : "none"}>
                    <button type="button" title={note} onClick={() => setSort(name)}>{name}{name === sort ? " ↓" : ""}</button>
                  </th>
                ))}
                <th scope="col">block</th>
                <th scope="col">pair</th>
              </tr>
            </thead>
            <tbody>
              {rows.slice(0, all ? rows.length : 12).map((each) => (
                <tr key={each.latent}>
                  <th scope="row"><LatentLink id={each.latent} /></th>
                  {columns.map(([name, , value]) => <td key={name} class="n">{name === "both active" ? count(each.coactive) : number(value(each))}</td>)}
                  <td>{each.block}</td>
                  <td>{each.described ? <PairLink ids={[page.latent, each.latent]}>open<span class="sr"> pair with {each.latent}</span></PairLink> : <span class="quiet">figures only</span>}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {rows.length > 12 && <button type="button" class="more" aria-expanded={all} onClick={() => setAll(!all)}>{all ? "Fewer" : `All ${rows.length}`}</button>}
    </Card>
  );
}
