// Two latents: where they meet, what a neuron makes of both, and the texts of both and of each.
import { useState } from "preact/hooks";
import { Bars, MeetingPlot } from "./charts";
import { count, number, percent, plural } from "./format";
import {
  Card, Excerpt, Figures, LatentLink, NeuronLink, Waiting, largest, markdown, table, useLoaded, usePane,
} from "./parts";
import type { Context, Dictionary, Meeting, PairPage } from "./types";

export function Pair() {
  const { source, manifest, route } = usePane();
  const [h, k] = [...route.ids].sort((a, b) => a - b), { dictionary } = route;
  const facts = manifest.dictionaries[dictionary];
  const loaded = useLoaded(() => source.page<PairPage>(dictionary, "pair", h * facts.latents + k), [dictionary, h, k]);
  const page = loaded.value;
  const title = (
    <div class="title">
      <h1><span class="first">Latent <LatentLink id={h} /></span> and <span class="second">latent <LatentLink id={k} /></span></h1>
    </div>
  );
  if (loaded.error) return <>{title}<FiguresOnly h={h} k={k} why={loaded.error} facts={facts} /></>;
  if (!page || page.latents[0] !== h || page.latents[1] !== k) return <Waiting of={loaded} />;
  return (
    <>
      {title}
      <Figures items={figures(page, facts)} />
      <div class="columns">
        <div class="main"><Together page={page} facts={facts} /></div>
        <aside aria-label="Figures of the pair">
          <Card title="By block" note="I, mean over tokens with both active.">
            <Bars rows={Object.entries(page.by_block).map(([block, value]) => [`block ${block}`, value])} />
          </Card>
          <Card title="Who dominates" note="I with one of the two dominant, mean over tokens with both active.">
            <Bars rows={[[`${h} over ${k}`, page.directed[0], 1], [`${k} over ${h}`, page.directed[1], 0]]} />
          </Card>
          {[0, 1].map((side) => <Alone key={side} id={page.latents[side]} contexts={page.alone[side]} side={side} />)}
        </aside>
      </div>
    </>
  );
}

/** A pair of the table without a page of its own. */
function FiguresOnly({ h, k, why, facts }: { h: number; k: number; why: string; facts: Dictionary }) {
  const { source, route } = usePane(), exactly = { h, k };
  const question = { text: "", sort: "per_token", descending: true, least: exactly, most: exactly, first: 0, rows: 1 };
  const loaded = useLoaded(() => source.rows(route.dictionary, "pairs", question), [route.dictionary, h, k]);
  const row = loaded.value?.rows[0];
  const of = (name: string) => row?.[loaded.value!.columns.indexOf(name)] as number | null;
  return (
    <>
      <p class="lead">{why}</p>
      {row ? <Figures items={[
        ["I a token", number(of("per_token"))], ["I", number(of("i"))], [facts.gated ? "AND" : "J", number(of("second"))],
        ["Q", number(of("q"))], ["both active", plural(of("coactive") ?? 0, "token")], ["strongest in block", `${of("block")}`],
      ]} /> : <p class="quiet">{loaded.value ? "They never met in this text." : "…"}</p>}
    </>
  );
}

function figures(page: PairPage, facts: Dictionary): [string, string, string?][] {
  return [
    ["I a token", number(page.per_token), "Both directions, all blocks, mean over the tokens at which pairs are measured"],
    ...facts.forms.map((form) => [form, number(page.per_coactive[form]), "Mean over tokens with both active"] as [string, string, string]),
    ["second difference", number(page.second_difference),
      `True non-additivity at the token’s other latents, mean over ${plural(page.compared, "token")} with both active`],
    ["both active", `${count(page.coactive)} tokens`, `${percent(page.coactive / page.tokens)} of the ${count(page.tokens)} at which pairs are measured`],
    ["each active", page.active.map(count).join(" and "), "Tokens at which each of the two is active"],
  ];
}

function Together({ page, facts }: { page: PairPage; facts: Dictionary }) {
  const [chosen, choose] = useState(0);
  const scale = [0, 1, 2].map((path) => largest(page.contexts, path));
  const context = page.contexts[Math.min(chosen, page.contexts.length - 1)];
  if (!context) {
    return <Card title="Both together"><p class="quiet">They are not active together in the {count(page.detail_tokens)} tokens read twice.</p></Card>;
  }
  const copy = { Markdown: () => page.contexts.map((each) => `* ${number(each.values[0][each.peak])}: ${markdown(each)}`).join("\n") };
  return (
    <>
      <Card title="Both together" copy={copy}
        note={<>Shading is the pair’s interaction I at each token; <span class="first">the line above</span> and <span class="second">the line below</span> are the two activations. Choose a context to see its neurons.</>}>
        <ol class="contexts choose">
          {page.contexts.map((each, at) => (
            <li key={each.sequence} class={at === chosen ? "chosen" : ""}>
              <button type="button" aria-pressed={at === chosen} onClick={() => choose(at)} class="strength" aria-label={`${number(each.values[0][each.peak])}: neurons of context ${at + 1}`}>{number(each.values[0][each.peak])}</button>
              <Excerpt context={each} scale={scale} paths={[0, 1, 2]} />
            </li>
          ))}
        </ol>
      </Card>
      <Card title="Where they meet" note={<>Neurons furthest from adding up at the underlined token, its other latents present. Filled: without both, with one, with both; <span class="hollow">hollow</span>: what adding up would give. The gap is the second difference δ².</>}
        copy={{ CSV: () => meetings(context.neurons, "CSV"), Markdown: () => meetings(context.neurons, "Markdown") }}>
        <div class="plots">
          {context.neurons.map((each) => (
            <figure key={`${each.block}.${each.neuron}`}>
              <figcaption>
                <strong>neuron <NeuronLink neuron={each} /></strong>
                <span class="quiet">δ² = {number(each.difference)}, ‖o‖ = {number(each.norm)}</span>
              </figcaption>
              <MeetingPlot meeting={each} facts={facts} names={page.latents} />
            </figure>
          ))}
        </div>
        <div class="scroll" tabIndex={0} role="region" aria-label="Numbers of these neurons">
          <Numbers neurons={context.neurons} names={page.latents} />
        </div>
      </Card>
    </>
  );
}

const HEADER = ["neuron", "rest", "first", "second", "without both", "with first", "with second", "with both", "second difference", "norm"];

function meetings(neurons: Meeting[], kind: "CSV" | "Markdown"): string {
  return table(HEADER, neurons.map((each) => [
    `${each.block}.${each.neuron}`, ...[each.rest, each.first, each.second].map((paths) => paths.join(" / ")),
    ...each.values, each.difference, each.norm,
  ]), kind);
}

function Numbers({ neurons, names }: { neurons: Meeting[]; names: [number, number] }) {
  return (
    <table>
      <thead><tr>
        {["neuron", "rest", `+ ${names[0]}`, `+ ${names[1]}`, "F(none)", `F(${names[0]})`, `F(${names[1]})`, "F(both)", "δ²"].map((name) =>
          <th key={name} scope="col" class={name === "neuron" ? "" : "n"}>{name}</th>)}
      </tr></thead>
      <tbody>
        {neurons.map((each) => (
          <tr key={`${each.block}.${each.neuron}`}>
            <th scope="row"><NeuronLink neuron={each} /></th>
            {[each.rest, each.first, each.second].map((paths, at) => <td key={at} class="n">{paths.map(number).join(" / ")}</td>)}
            {each.values.map((value, at) => <td key={`v${at}`} class="n">{number(value)}</td>)}
            <td class="n">{number(each.difference)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Alone({ id, contexts, side }: { id: number; contexts: Context[]; side: number }) {
  return (
    <Card title={`Latent ${id} apart`} note="Its strongest contexts in other sequences.">
      <ol class={`contexts ${side ? "as-second" : "as-first"}`}>
        {contexts.map((each) => <li key={each.sequence}><Excerpt context={each} scale={[largest(contexts)]} /></li>)}
      </ol>
    </Card>
  );
}
