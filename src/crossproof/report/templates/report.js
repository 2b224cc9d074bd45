"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const resolved = (value, css) => {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name ? css.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((part) => resolved(part, css));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolved(v, css)]));
  };

  const themed = (layout, css) => {
    const of = (name) => css.getPropertyValue(name).trim();
    const axis = {
      gridcolor: of("--grid"), zerolinecolor: of("--axis"), linecolor: of("--axis"),
      tickfont: { color: of("--soft") }, title: { font: { color: of("--soft") } },
    };
    const out = {
      ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: of("--sans"), size: 12.5, color: of("--ink") },
      hoverlabel: { bgcolor: of("--card"), bordercolor: of("--axis"), font: { color: of("--ink") } },
    };
    for (const name of ["xaxis", "yaxis"]) {
      const given = layout[name] ?? {};
      out[name] = { ...axis, ...given, title: { ...axis.title, ...given.title } };
    }
    return out;
  };

  const chosen = () => document.querySelector("input[name=mid]:checked")?.value ?? "exact_mid";

  const draw = () => {
    const css = getComputedStyle(document.documentElement);
    for (const [id, figure] of Object.entries(figures)) {
      const data = resolved(figure.data, css).map((trace) =>
        trace.meta ? { ...trace, visible: trace.meta === chosen() } : trace);
      const layout = themed(resolved(figure.layout, css), css);
      Plotly.react(id, data, layout, { responsive: true, displayModeBar: false });
    }
  };

  draw();
  dark.addEventListener("change", draw);
  for (const input of document.querySelectorAll("input[name=mid]")) {
    input.addEventListener("change", draw);
  }
})();
