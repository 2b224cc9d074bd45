// Builds the pages into the package, and writes down what they were built from.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync, mkdirSync, copyFileSync } from "node:fs";
import { build } from "esbuild";

const out = "../src/crossproof/explorer/static";
mkdirSync(out, { recursive: true });
await build({
  entryPoints: { app: "src/main.tsx" },
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2022"],
  charset: "utf8",
  legalComments: "none",
  jsx: "automatic",
  jsxImportSource: "preact",
  outdir: out,
});
await build({ entryPoints: ["src/app.css"], minify: true, outdir: out });
copyFileSync("src/index.html", `${out}/index.html`);

// The same sum as tests/unit/test_explorer_built.py computes: names and texts of all sources.
const sum = createHash("sha256");
const sources = readdirSync("src").sort().map((name) => `src/${name}`);
for (const name of ["build.mjs", "package-lock.json", "package.json", ...sources, "tsconfig.json"]) {
  sum.update(name).update("\0").update(readFileSync(name)).update("\0");
}
const built = createHash("sha256");
for (const name of ["app.css", "app.js", "index.html"]) built.update(readFileSync(`${out}/${name}`));
writeFileSync(
  `${out}/built-from.json`,
  `${JSON.stringify({ sources: sum.digest("hex"), built: built.digest("hex") }, null, 1)}\n`,
);
