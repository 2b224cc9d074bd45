// Charts drawn by hand: few kinds, each with words for those who cannot see it.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { number } from "./format";
import type { Dictionary, Meeting, Stack } from "./types";

export const COLOURS = 8;
export const colour = (at: number) => `var(--c${(at % COLOURS) + 1})`;

/** A chart as wide as its place, drawn anew when that changes. */
function Chart({ height, told, draw }: { height: number; told: string; draw(width: number): ComponentChildren }) {
  const place = useRef<HTMLDivElement>(null);
  const [width, set] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => set(Math.floor(entry.contentRect.width)));
    observer.observe(place.current!);
    return () => observer.disconnect();
  }, []);
  return (
    <div class="plot" ref={place} style={{ minHeight: `${height}px` }}>
      {width > 0 && (
        <svg class="chart" role="img" aria-label={told} width={width} height={height} viewBox={`0 0 ${width} ${height}`}>
          {draw(width)}
        </svg>
      )}
    </div>
  );
}

export function Histogram({ bins }: { bins: [number, number][] }) {
  if (bins.length === 0) return <p class="quiet">Never active in this text.</p>;
  const most = Math.max(...bins.map(([, n]) => n)), height = 130, foot = 20;
  const told = `Histogram of activations from ${number(bins[0][0])} to ${number(bins.at(-1)![0] * 2 ** 0.25)}, `
    + `most often about ${number(bins.find(([, n]) => n === most)![0])}.`;
  return (
    <Chart height={height} told={told} draw={(width) => {
      const step = width / bins.length, every = Math.ceil(44 / step);
      return bins.map(([low, many], at) => {
        const size = many ? Math.max(2, (height - foot - 14) * many / most) : 0;
        return (
          <g key={at}>
            <rect class="bar" x={at * step + 0.5} y={height - foot - size} width={Math.max(step - 1, 1)} height={size}>
              <title>{`${number(low)} to ${number(low * 2 ** 0.25)}: ${many}`}</title>
            </rect>
            {at % every === 0 && <text class="tick" x={at * step} y={height - 5}>{number(low)}</text>}
          </g>
        );
      }).concat(<line key="axis" class="axis" x1={0} x2={width} y1={height - foot} y2={height - foot} />);
    }} />
  );
}

/** Labelled bars, also below zero; a list to those who cannot see them. */
export function Bars({ rows, from = 0, format = number }: { rows: [ComponentChildren, number, number?][]; from?: number; format?: (value: number) => string }) {
  const most = Math.max(1e-30, ...rows.map(([, value]) => Math.abs(value - from)));
  return (
    <ul class="bars">
      {rows.map(([label, value, tone = 0], at) => (
        <li key={at}>
          <span class="label">{label}</span>
          <span class="track" aria-hidden="true">
            <span class={value < from ? "fill low" : "fill"} style={{ width: `${100 * Math.abs(value - from) / most}%`, "--tone": colour(tone) } as unknown as string} />
          </span>
          <span class="value">{format(value)}</span>
        </li>
      ))}
    </ul>
  );
}

/** The activation function of a dictionary's MLPs at any place. */
export function activation(facts: Dictionary): (x: number) => number {
  const { reach = 24, y = [] } = facts.curve;
  const last = y.length - 1, step = (2 * reach) / last;
  return (x) => {
    const at = (x + reach) / step, low = Math.min(Math.max(Math.floor(at), 0), last - 1);
    return y[low] + (y[low + 1] - y[low]) * (at - low);
  };
}

function ticks(low: number, high: number, many: number): number[] {
  const raw = (high - low) / many, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw) ?? raw;
  const first = Math.ceil(low / step) * step, found = [];
  for (let at = first; at <= high + step * 1e-6; at += step) found.push(Math.abs(at) < step * 1e-6 ? 0 : at);
  return found;
}

interface Arrow { from: number; to: number; tone: string; label: string }
interface Dot { x: number; y: number; kind: string; label: string }

interface PlaneProps {
  f: (x: number) => number;
  x: number[];
  arrows: Arrow[];
  dots: Dot[];
  gap?: { x: number; from: number; to: number };
  told: string;
  axis: string;
}

/** A neuron's curve, what moves it along, and what it gives there. */
function Plane({ f, x, arrows, dots, gap, told, axis }: PlaneProps) {
  const lanes = Math.min(arrows.length, 12), rows = 14, top = 10, foot = 34;
  const curve = 150, height = top + curve + lanes * rows + foot + 6;
  return (
    <Chart height={height} told={told} draw={(width) => {
      const ends = [Math.min(...x, 0), Math.max(...x, 0)], margin = (ends[1] - ends[0]) * 0.12 + 0.15;
      const [low, high] = [ends[0] - margin, ends[1] + margin];
      const left = 44, right = width - 12;
      const px = (value: number) => left + (value - low) / (high - low) * (right - left);
      const line = Array.from({ length: 121 }, (_, at) => low + (high - low) * at / 120).map((at) => [at, f(at)]);
      const ys = [...line.map(([, y]) => y), ...dots.map((dot) => dot.y)];
      const [bottom, roof] = [Math.min(...ys, 0), Math.max(...ys, 0.01)];
      const py = (value: number) => top + (roof - value) / (roof - bottom || 1) * curve;
      const base = top + curve + 8;
      return [
        ...ticks(low, high, Math.max(3, width / 110)).map((at) => (
          <g key={`x${at}`}>
            <line class="grid" x1={px(at)} x2={px(at)} y1={top} y2={base + lanes * rows} />
            <text class="tick middle" x={px(at)} y={base + lanes * rows + 14}>{number(at)}</text>
          </g>
        )),
        ...ticks(bottom, roof, 3).map((at) => (
          <g key={`y${at}`}>
            <line class="grid" x1={left} x2={right} y1={py(at)} y2={py(at)} />
            <text class="tick end" x={left - 6} y={py(at) + 4}>{number(at)}</text>
          </g>
        )),
        <text key="axis" class="tick end" x={right} y={height - 4}>{axis}</text>,
        <path key="curve" class="curve" d={`M${line.map(([a, b]) => `${px(a).toFixed(1)},${py(b).toFixed(1)}`).join("L")}`} />,
        ...arrows.slice(0, lanes).map((arrow, at) => {
          const y = base + at * rows + 6, [a, b] = [px(arrow.from), px(arrow.to)], back = b < a ? 5 : -5;
          return (
            <g key={`a${at}`} style={{ "--tone": arrow.tone } as unknown as string}>
              <title>{arrow.label}</title>
              <line class="step" x1={a} x2={b} y1={y} y2={y} />
              <path class="head" d={`M${b},${y}l${back},-3.5v7z`} />
            </g>
          );
        }),
        gap && <line key="gap" class="gap" x1={px(gap.x)} x2={px(gap.x)} y1={py(gap.from)} y2={py(gap.to)}><title>second difference</title></line>,
        ...dots.map((dot, at) => (
          <circle key={`d${at}`} class={`dot ${dot.kind}`} cx={px(dot.x)} cy={py(dot.y)} r={4.5}><title>{dot.label}</title></circle>
        )),
      ];
    }} />
  );
}

/** Two latents at one neuron: each alone, both, and what adding up would give. */
export function MeetingPlot({ meeting, facts, names }: { meeting: Meeting; facts: Dictionary; names: [number, number] }) {
  const gated = meeting.rest.length > 1, path = gated ? 1 : 0, f = activation(facts);
  const [r, p, q] = [meeting.rest[path], meeting.first[path], meeting.second[path]];
  const value = gated ? meeting.rest[0] + meeting.first[0] + meeting.second[0] : 1;
  const curve = (x: number) => (gated ? f(x) * value : f(x));
  const [none, one, other, both] = meeting.values, added = one + other - none;
  const told = `Neuron ${meeting.block}.${meeting.neuron}: without both ${number(none)}, with latent ${names[0]} ${number(one)}, `
    + `with latent ${names[1]} ${number(other)}, with both ${number(both)}; added up it would be ${number(added)}, `
    + `so the second difference is ${number(meeting.difference)}.`;
  return (
    <Plane f={curve} x={[r, r + p, r + q, r + p + q]} told={told}
      axis={gated ? "gate’s pre-activation" : "pre-activation"}
      arrows={[
        { from: r, to: r + p, tone: "var(--first)", label: `latent ${names[0]}: ${number(p)}` },
        { from: r + p, to: r + p + q, tone: "var(--second)", label: `latent ${names[1]}: ${number(q)}` },
        { from: r, to: r + p + q, tone: "var(--soft)", label: `sum: ${number(p + q)}` },
      ]}
      gap={{ x: r + p + q, from: added, to: both }}
      dots={[
        { x: r, y: none, kind: "none", label: `without both: ${number(none)}` },
        { x: r + p, y: one, kind: "first", label: `with ${names[0]}: ${number(one)}` },
        { x: r + q, y: other, kind: "second", label: `with ${names[1]}: ${number(other)}` },
        { x: r + p + q, y: both, kind: "both", label: `with both: ${number(both)}` },
        { x: r + p + q, y: added, kind: "added", label: `added up: ${number(added)}` },
      ]} />
  );
}

/** All contributions to one neuron, one after another, against its curve. */
export function StackPlot({ stack, facts, name }: { stack: Stack; facts: Dictionary; name: string }) {
  const gated = stack.baseline.length > 1, path = gated ? 1 : 0, f = activation(facts);
  const curve = (x: number) => (gated ? f(x) * stack.input[0] : f(x));
  const steps = stack.contributions[path], arrows: Arrow[] = [], ends = [stack.baseline[path]];
  steps.slice(0, 11).forEach((step, at) => {
    const from = ends.at(-1)!;
    arrows.push({ from, to: from + step, tone: colour(at), label: `latent ${stack.latents[at]}: ${number(step)}` });
    ends.push(from + step);
  });
  const input = stack.input[path];
  if (Math.abs(input - ends.at(-1)!) > 1e-9) {
    arrows.push({ from: ends.at(-1)!, to: input, tone: "var(--soft)", label: `all others: ${number(input - ends.at(-1)!)}` });
  }
  const told = `${name}: from the baseline ${number(stack.baseline[path])} to the pre-activation ${number(input)}, `
    + `where the neuron gives ${number(stack.value)}. `
    + stack.latents.slice(0, 6).map((latent, at) => `Latent ${latent} adds ${number(steps[at])}`).join(", ") + ".";
  return (
    <Plane f={curve} x={[...ends, input]} arrows={arrows} told={told}
      axis={gated ? "gate’s pre-activation" : "pre-activation"}
      dots={[
        { x: stack.baseline[path], y: curve(stack.baseline[path]), kind: "none", label: "baseline" },
        { x: input, y: stack.value, kind: "both", label: `value: ${number(stack.value)}` },
      ]} />
  );
}
