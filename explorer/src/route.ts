// The address says everything about the view: #/0/latent/12 or, side by side, two of them.

export interface Route {
  dictionary: number;
  view: "latents" | "pairs" | "latent" | "pair" | "neuron" | "map" | "sentence" | "about";
  /** The latents of a pair, or the number of a latent or neuron. */
  ids: number[];
  options: Record<string, string>;
}

const VIEWS = ["latents", "pairs", "latent", "pair", "neuron", "map", "sentence", "about"];

export function parsed(text: string): Route {
  const [path, query = ""] = text.split("?");
  const [dictionary = "0", view = "latents", ids = ""] = path.split("/").filter(Boolean);
  return {
    dictionary: Number.parseInt(dictionary, 10) || 0,
    view: (VIEWS.includes(view) ? view : "latents") as Route["view"],
    ids: ids.split("-").map((id) => Number.parseInt(id, 10)).filter((id) => id >= 0),
    options: Object.fromEntries(new URLSearchParams(query)),
  };
}

export function written(route: Partial<Route> & { view: Route["view"] }): string {
  const { dictionary = 0, view, ids = [], options = {} } = route;
  const given = Object.entries(options).filter(([, value]) => value !== "");
  const query = new URLSearchParams(given).toString();
  const tail = ids.length ? `/${ids.join("-")}` : "";
  return `/${dictionary}/${view}${tail}${query ? `?${query}` : ""}`;
}

/** The routes of all panes, one or two. */
export function panes(): Route[] {
  const parts = location.hash.slice(1).split("||").filter(Boolean).slice(0, 2);
  return (parts.length ? parts : ["/0/latents"]).map((part) => parsed(decodeURI(part)));
}

export function address(routes: Route[]): string {
  return `#${routes.map(written).join("||")}`;
}
