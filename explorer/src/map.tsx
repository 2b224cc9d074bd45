// Latents in a plane: as a graph of the strongest pairs, or by their decoder vectors.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { number } from "./format";
import { Card, LatentLink, PairLink, Waiting, table, useLoaded, usePane } from "./parts";
import type { LatentPage, MapPage } from "./types";

interface Node { id: number; x: number; y: number; cluster: number; size: number }
type Edge = [number, number, number];
interface Plane { nodes: Node[]; edges: Edge[] }
interface Window_ { x: number; y: number; zoom: number }

const HOME: Window_ = { x: 0, y: 0, zoom: 1 };

export function Map_() {
  const pane = usePane(), { dictionary, options } = pane.route;
  const loaded = useLoaded(() => pane.source.page<MapPage>(dictionary, "map", 0), [dictionary]);
  const kind = options.by === "vectors" ? "vectors" : "pairs";
  const near = options.near ? Number(options.near) : null;
  const own = useLoaded<LatentPage | null>(
    () => (near === null ? Promise.resolve(null) : pane.source.page<LatentPage>(dictionary, "latent", near)),
    [dictionary, near],
  );
  const page = loaded.value, chosen = own.value?.latent === near ? own.value! : null;
  const edges = useMemo(() => (page ? edgesOf(page, kind, chosen) : []), [page, kind, chosen]);
  const plane = useMemo(() => (page ? planeOf(page, kind, chosen, edges) : null), [page, kind, chosen, edges]);
  if (!page || !plane) return <Waiting of={loaded} />;
  const set = (changed: Record<string, string>) => pane.go({ ...pane.route, options: { ...options, ...changed } }, true);
  const listed = chosen ? edges.filter(([h, k]) => h === near || k === near) : page.edges;
  const byVectors = chosen !== null && kind === "vectors";
  return (
    <>
      <div class="title"><h1>Map</h1></div>
      <div class="controls">
        <fieldset class="choice"><legend class="sr">Layout</legend>
          {([["pairs", "Strongest pairs"], ["vectors", "Decoder vectors"]] as const).map(([value, text]) => (
            <label key={value}><input type="radio" name={`by-${dictionary}`} checked={kind === value} onChange={() => set({ by: value === "vectors" ? value : "" })} /><span>{text}</span></label>
          ))}
        </fieldset>
        <label class="field">Neighbourhood of latent
          <input type="number" min={0} value={options.near ?? ""} onChange={(event) => set({ near: event.currentTarget.value })} /></label>
        {near !== null && <button type="button" onClick={() => set({ near: "" })}>Whole map</button>}
      </div>
      {own.error && <p class="error" role="alert">{own.error}</p>}
      <Drawing plane={plane} edges={kind === "pairs" || chosen !== null} chosen={near} choose={(id) => set({ near: `${id}` })} />
      <Card title={!chosen ? "Strongest pairs" : byVectors ? `Nearest decoder vectors of ${near}` : `Strongest pairs of ${near}`}
        note={byVectors ? "The same as a list: cosine, all hookpoints together." : "The same as a list: I a token."}
        copy={{ CSV: () => table(["h", "k", byVectors ? "cosine" : "I a token"], listed, "CSV") }}>
        {chosen && <p><LatentLink id={chosen.latent}>Open latent {near}</LatentLink></p>}
        <ol class="pairs">
          {listed.slice(0, 60).map(([h, k, size]) => (
            <li key={`${h}-${k}`}>{byVectors ? <LatentLink id={h === near ? k : h} /> : <PairLink ids={[h, k]}>{h} · {k}</PairLink>} <span class="quiet">{number(size)}</span></li>
          ))}
        </ol>
        {listed.length === 0 && <p class="quiet">It meets no other latent in this text.</p>}
      </Card>
    </>
  );
}

/** The strongest pairs; of a neighbourhood those of one latent, and those among its partners. */
function edgesOf(page: MapPage, kind: string, chosen: LatentPage | null): Edge[] {
  if (!chosen) return page.edges;
  const to = (other: number, size: number): Edge => [Math.min(chosen.latent, other), Math.max(chosen.latent, other), size];
  if (kind === "vectors") return chosen.nearest.map(([other, cosine]) => to(other, cosine));
  const own = chosen.partners.map((each) => to(each.latent, each.per_token)).sort((a, b) => b[2] - a[2]);
  const close = new Set(chosen.partners.map((each) => each.latent));
  return [...own, ...page.edges.filter(([h, k]) => close.has(h) && close.has(k))];
}

function planeOf(page: MapPage, kind: string, chosen: LatentPage | null, edges: Edge[]): Plane {
  const row = new Map(page.latents.map((latent, at) => [latent, at]));
  const most = Math.max(1e-30, ...page.interaction);
  const node = (id: number, x: number, y: number): Node => {
    const at = row.get(id);
    const known = at === undefined ? { cluster: 0, size: 0 } : { cluster: page.clusters[at], size: Math.sqrt(page.interaction[at] / most) };
    return { id, x, y, ...known };
  };
  const linked = [...new Set([...(chosen ? [chosen.latent] : []), ...edges.flatMap(([h, k]) => [h, k])])];
  if (kind === "vectors" && !chosen) return { nodes: page.latents.map((id, at) => node(id, page.x[at], page.y[at])), edges };
  const places = settled(linked, edges);
  return { nodes: linked.map((id, at) => node(id, ...places[at])), edges };
}

/**
 * Springs along pairs, repulsion between those that are close: Fruchterman and Reingold, always from
 * one beginning. Without the limit, small groups would be driven to the rim and the rest be a dot.
 */
function settled(ids: number[], edges: Edge[]): [number, number][] {
  const n = ids.length, index = new Map(ids.map((id, at) => [id, at]));
  const golden = Math.PI * (3 - Math.sqrt(5));
  const at = ids.map((_, i) => [Math.cos(i * golden) * Math.sqrt((i + 1) / n), Math.sin(i * golden) * Math.sqrt((i + 1) / n)]);
  const k = 1.1 / Math.sqrt(n || 1), reached = (4 * k) ** 2, steps = n > 400 ? 140 : 220;
  for (let step = 0; step < steps; step++) {
    const move = at.map(([x, y]) => [-x * 0.02, -y * 0.02]);
    for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) {
      const dx = at[i][0] - at[j][0], dy = at[i][1] - at[j][1], square = dx * dx + dy * dy;
      if (square > reached) continue;
      const force = k * k / (square + 1e-5);
      move[i][0] += dx * force; move[i][1] += dy * force;
      move[j][0] -= dx * force; move[j][1] -= dy * force;
    }
    for (const [a, b] of edges) {
      const i = index.get(a)!, j = index.get(b)!, dx = at[i][0] - at[j][0], dy = at[i][1] - at[j][1];
      const force = Math.sqrt(dx * dx + dy * dy) / k;
      move[i][0] -= dx * force; move[i][1] -= dy * force;
      move[j][0] += dx * force; move[j][1] += dy * force;
    }
    const heat = 0.12 * (1 - step / steps);
    for (let i = 0; i < n; i++) {
      const size = Math.hypot(move[i][0], move[i][1]) || 1, go = Math.min(size, heat) / size;
      at[i][0] += move[i][0] * go; at[i][1] += move[i][1] * go;
    }
  }
  return filled(at);
}

/** Within [-1, 1] each way, the crowded middle drawn out. */
function filled(at: number[][]): [number, number][] {
  const middle = [0, 1].map((axis) => at.reduce((sum, each) => sum + each[axis], 0) / (at.length || 1));
  const drawn = at.map(([x, y]) => {
    const [a, b] = [x - middle[0], y - middle[1]], out = Math.max(Math.hypot(a, b), 1e-6) ** -0.35;
    return [a * out, b * out];
  });
  const reach = [0, 1].map((axis) => Math.max(1e-6, ...drawn.map((each) => Math.abs(each[axis]))));
  return drawn.map(([x, y]) => [x / reach[0], y / reach[1]]);
}

const TONES = 8;

function Drawing({ plane, edges, chosen, choose }: { plane: Plane; edges: boolean; chosen: number | null; choose(id: number): void }) {
  const canvas = useRef<HTMLCanvasElement>(null), [view, setView] = useState(HOME), [over, setOver] = useState<Node | null>(null);
  const [size, setSize] = useState([800, 560]);
  const drag = useRef<{ x: number; y: number; moved: boolean } | null>(null);
  useEffect(() => setView(HOME), [plane]);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setSize([Math.floor(entry.contentRect.width), Math.min(640, Math.max(340, Math.floor(innerHeight * 0.6)))]));
    observer.observe(canvas.current!.parentElement!);
    return () => observer.disconnect();
  }, []);
  const [width, height] = size, unit = height * 0.46 * view.zoom, wide = width / height;
  const place = (node: Node) => [width / 2 + (node.x - view.x) * unit * wide, height / 2 + (node.y - view.y) * unit];
  const bySize = useMemo(() => [...plane.nodes].sort((a, b) => b.size - a.size), [plane]);
  const [dark, setDark] = useState(0);
  useEffect(() => {
    const again = () => setDark((value) => value + 1), media = matchMedia("(prefers-color-scheme: dark)");
    const observer = new MutationObserver(again);
    media.addEventListener("change", again);
    observer.observe(document.documentElement, { attributes: true });
    return () => { media.removeEventListener("change", again); observer.disconnect(); };
  }, []);
  useEffect(() => {
    const frame = canvas.current!, scale = devicePixelRatio || 1, pen = frame.getContext("2d")!;
    frame.width = width * scale;
    frame.height = height * scale;
    pen.scale(scale, scale);
    const style = getComputedStyle(frame), tone = (name: string) => style.getPropertyValue(name).trim();
    const byId = new Map(plane.nodes.map((node) => [node.id, node]));
    if (edges) {
      const most = Math.max(1e-30, ...plane.edges.map(([, , weight]) => weight));
      pen.strokeStyle = tone("--axis");
      for (const [h, k, weight] of plane.edges) {
        const [a, b] = [byId.get(h), byId.get(k)];
        if (!a || !b) continue;
        pen.globalAlpha = 0.25 + 0.6 * Math.sqrt(weight / most);
        pen.lineWidth = 0.6 + 2.4 * weight / most;
        pen.beginPath();
        pen.moveTo(...(place(a) as [number, number]));
        pen.lineTo(...(place(b) as [number, number]));
        pen.stroke();
      }
    }
    const many = plane.nodes.length, base = many > 5000 ? 1.3 : many > 1200 ? 2 : 3;
    for (const node of plane.nodes) {
      const [x, y] = place(node);
      if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
      pen.globalAlpha = many > 5000 ? 0.6 : 0.9;
      pen.fillStyle = tone(node.cluster ? `--c${((node.cluster - 1) % TONES) + 1}` : "--point");
      pen.beginPath();
      pen.arc(x, y, base + base * 1.4 * node.size, 0, 7);
      pen.fill();
      if (node.id === chosen || node.id === over?.id) {
        pen.globalAlpha = 1;
        pen.strokeStyle = tone("--ink");
        pen.lineWidth = 2;
        pen.stroke();
      }
    }
    pen.globalAlpha = 1;
    pen.font = `11px ${tone("--sans")}`;
    const few = many / view.zoom ** 2 < 90, written: [number, number][] = [];
    for (const node of few ? bySize : bySize.slice(0, 40)) {
      const [x, y] = place(node);
      if (x < 0 || y < 0 || x > width || y > height || written.some(([a, b]) => Math.abs(a - x) < 34 && Math.abs(b - y) < 14)) continue;
      written.push([x, y]);
      pen.strokeStyle = tone("--card");
      pen.lineWidth = 3;
      pen.strokeText(`${node.id}`, x + 7, y - 5);
      pen.fillStyle = tone("--ink");
      pen.fillText(`${node.id}`, x + 7, y - 5);
    }
  }, [plane, view, size, over, dark, chosen]);
  const nearest = (event: PointerEvent | MouseEvent) => {
    const box = canvas.current!.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best: Node | null = null, gap = 14 ** 2;
    for (const node of plane.nodes) {
      const [a, b] = place(node), distance = (a - x) ** 2 + (b - y) ** 2;
      if (distance < gap) [best, gap] = [node, distance];
    }
    return best;
  };
  const zoomed = (by: number) => setView((old) => ({ ...old, zoom: Math.min(60, Math.max(0.8, old.zoom * by)) }));
  const keys = (event: KeyboardEvent) => {
    const step = 0.15 / view.zoom;
    const change: Record<string, () => void> = {
      "+": () => zoomed(1.3), "=": () => zoomed(1.3), "-": () => zoomed(1 / 1.3), "0": () => setView(HOME),
      ArrowLeft: () => setView((old) => ({ ...old, x: old.x - step })), ArrowRight: () => setView((old) => ({ ...old, x: old.x + step })),
      ArrowUp: () => setView((old) => ({ ...old, y: old.y - step })), ArrowDown: () => setView((old) => ({ ...old, y: old.y + step })),
    };
    if (change[event.key]) { event.preventDefault(); change[event.key](); }
  };
  useEffect(() => {
    const frame = canvas.current!;
    const wheel = (event: WheelEvent) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== frame) return;
      event.preventDefault();
      zoomed(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    };
    frame.addEventListener("wheel", wheel, { passive: false });
    return () => frame.removeEventListener("wheel", wheel);
  }, []);
  return (
    <div class="map card">
      <div class="tools">
        <button type="button" aria-label="Zoom in" onClick={() => zoomed(1.4)}>+</button>
        <button type="button" aria-label="Zoom out" onClick={() => zoomed(1 / 1.4)}>−</button>
        <button type="button" onClick={() => setView(HOME)}>Whole</button>
        <span class="quiet" role="status">{over ? `latent ${over.id}${over.cluster ? `, cluster ${over.cluster}` : ""}` : `${plane.nodes.length} latents${edges ? `, ${plane.edges.length} pairs` : ""}`}</span>
      </div>
      <div class="canvas">
        <canvas ref={canvas} tabIndex={0} role="img" style={{ width: `${width}px`, height: `${height}px` }}
          aria-label={`Map of ${plane.nodes.length} latents. Plus and minus zoom, arrows move; the pairs are listed below.`}
          onKeyDown={keys}
          onPointerDown={(event) => { drag.current = { x: event.clientX, y: event.clientY, moved: false }; canvas.current!.setPointerCapture(event.pointerId); }}
          onPointerMove={(event) => {
            const from = drag.current;
            if (!from) return setOver(nearest(event));
            const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
            if (Math.abs(dx) + Math.abs(dy) < 3 && !from.moved) return;
            drag.current = { x: event.clientX, y: event.clientY, moved: true };
            setView((old) => ({ ...old, x: old.x - dx / unit / wide, y: old.y - dy / unit }));
          }}
          onPointerUp={(event) => {
            const found = drag.current && !drag.current.moved ? nearest(event) : null;
            drag.current = null;
            if (found) choose(found.id);
          }} />
      </div>
    </div>
  );
}
