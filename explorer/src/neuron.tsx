// One neuron: who dominates it, and everything that reaches it at a few tokens.
import { Bars, StackPlot, colour } from "./charts";
import { count, number, percent } from "./format";
import { Card, Excerpt, Figures, LatentLink, Link, Waiting, largest, table, useLoaded, usePane } from "./parts";
import type { Dictionary, NeuronPage, Stack } from "./types";

export function Neuron() {
  const { source, manifest, route } = usePane();
  const [id] = route.ids, { dictionary } = route, facts = manifest.dictionaries[dictionary];
  const loaded = useLoaded(() => source.page<NeuronPage>(dictionary, "neuron", id), [dictionary, id]);
  const page = loaded.value;
  if (!page || page.number !== id) return <Waiting of={loaded} />;
  const all = Object.values(facts.neurons).reduce((a, b) => a + b, 0);
  const owned = page.owners.reduce((sum, [, share]) => sum + share, 0);
  return (
    <>
      <div class="title">
        <h1>Neuron {page.block}.{page.neuron}</h1>
        <nav aria-label="Neighbouring neurons">
          {id > 0 && <Link to={{ view: "neuron", ids: [id - 1] }} aria-label="Previous neuron">←</Link>}
          {id + 1 < all && <Link to={{ view: "neuron", ids: [id + 1] }} aria-label="Next neuron">→</Link>}
        </nav>
        <span class="tag">MLP of block {page.block}</span>
      </div>
      <Figures items={[
        ["read at", facts.views[page.block] ?? "–"],
        ["tokens", count(page.tokens), "Tokens read twice"],
        ["first owner", page.owners.length ? percent(page.owners[0][1]) : "–", "Share of its tokens at which the first latent is dominant"],
        [`first ${page.owners.length} owners`, percent(owned)],
      ]} />
      <div class="columns">
        <div class="main">
          {page.examples.map((each) => <Example key={each.sequence} example={each} facts={facts} name={`Neuron ${page.block}.${page.neuron}`} />)}
          {page.examples.length === 0 && <Card title="Examples"><p class="quiet">No latent reaches it in this text.</p></Card>}
        </div>
        <aside aria-label="Who dominates it">
          <Card title="Who dominates it" note="Share of the tokens with an owner at which each latent contributes most."
            copy={{ CSV: () => table(["latent", "share"], page.owners, "CSV") }}>
            <Bars rows={page.owners.map(([latent, share]) => [<LatentLink id={latent} />, share])} format={percent} />
          </Card>
        </aside>
      </div>
    </>
  );
}

function Example({ example, facts, name }: { example: NeuronPage["examples"][number]; facts: Dictionary; name: string }) {
  const word = example.tokens[example.peak].trim() || "·";
  return (
    <Card title={`At “${word}”`} note="Shading is the activation of its dominant latent. Below the curve, what each latent adds, one after another."
      copy={{ CSV: () => stackTable(example) }}>
      <Excerpt context={example} scale={[largest([example])]} />
      <Contributions stack={example} facts={facts} name={name} />
    </Card>
  );
}

export function Contributions({ stack, facts, name }: { stack: Stack; facts: Dictionary; name: string }) {
  const gated = stack.baseline.length > 1, path = gated ? 1 : 0;
  return (
    <>
      <StackPlot stack={stack} facts={facts} name={name} />
      <ul class="legend">
        <li>baseline {stack.baseline.map(number).join(" / ")}</li>
        {stack.latents.slice(0, 11).map((latent, at) => (
          <li key={latent}><span class="swatch" style={{ background: colour(at) }} /><LatentLink id={latent} /> {stack.contributions.map((each) => number(each[at])).join(" / ")}</li>
        ))}
        <li>→ {number(stack.input[path])}, value {number(stack.value)}</li>
      </ul>
      {gated && <p class="quiet">Gated: linear path / gate. The curve is the gate’s activation times the value of the linear path.</p>}
    </>
  );
}

function stackTable(stack: Stack): string {
  const rows = stack.latents.map((latent, at) => [latent, ...stack.contributions.map((each) => each[at])]);
  const paths = stack.baseline.length > 1 ? ["value", "gate"] : ["contribution"];
  return table(["latent", ...paths], [["baseline", ...stack.baseline], ...rows, ["others", ...stack.more]], "CSV");
}
