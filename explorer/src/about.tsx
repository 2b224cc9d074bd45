// What this store is about: the model, the text, and each dictionary's headline figures.
import { count, number, percent } from "./format";
import { Card, Figures, table, usePane } from "./parts";

export function About() {
  const { manifest, route } = usePane(), facts = manifest.dictionaries[route.dictionary];
  const rows = manifest.dictionaries.map((each) => [each.name, ...FIGURES.map((name) => each.figures[name]?.[0] ?? null), ...FORMS.map((form) => each.totals[form] ?? null)]);
  const header = ["dictionary", ...FIGURES, ...FORMS];
  return (
    <>
      <div class="title"><h1>{facts.name}</h1></div>
      {facts.objective && <p class="lead">{facts.objective}</p>}
      <Figures items={[
        ["model", manifest.model],
        ["latents", count(facts.latents), `${facts.dead} never active in this text`],
        ["never active", count(facts.dead)],
        ["tokens read", count(facts.tokens), `${manifest.text.split} split of ${manifest.text.text}`],
        ["pairs measured at", count(facts.pair_tokens), "Tokens, spread evenly over the text"],
        ["read twice", count(facts.detail_tokens), "For contexts of pairs, second differences and neurons"],
        ["pairs", count(facts.pairs), facts.pairs_complete ? "All that occurred" : "The strongest partners of each latent"],
        ["with a page", count(facts.described)],
      ]} />
      <Card title="Side by side" copy={{ Markdown: () => table(header, rows, "Markdown"), CSV: () => table(header, rows, "CSV") }}
        note="Φ, FVU and L0 as evaluate has them, with 95% intervals; the forms of interaction are means over tokens and blocks of the text read here.">
        <div class="scroll" tabIndex={0} role="region" aria-label="Figures of all dictionaries">
          <table>
            <thead><tr><th scope="col">dictionary</th>{header.slice(1).map((name) => <th scope="col" class="n" key={name}>{name}</th>)}</tr></thead>
            <tbody>
              {manifest.dictionaries.map((each) => (
                <tr key={each.name}>
                  <th scope="row">{each.name}</th>
                  {FIGURES.map((name) => {
                    const value = each.figures[name];
                    return <td class="n" key={name}>{value ? <>{number(value[0])} <span class="quiet">{number(value[1])}–{number(value[2])}</span></> : "–"}</td>;
                  })}
                  {FORMS.map((form) => <td class="n" key={form}>{form === "dominated" ? percent(each.totals[form]) : number(each.totals[form])}</td>)}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </Card>
      <Card title="Where it is read">
        {facts.unread && <p class="quiet">{facts.unread}</p>}
        <ul class="plain">
          {Object.entries(facts.views).map(([block, where]) => <li key={block}>block {block}: {where} ({count(facts.neurons[block])} neurons)</li>)}
        </ul>
      </Card>
    </>
  );
}

const FIGURES = ["Φ keep-largest", "Φ all latents", "FVU", "L0"];
const FORMS = ["I", "J", "AND", "Q", "dominated"];
