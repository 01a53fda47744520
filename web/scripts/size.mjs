// The gate on what a visitor downloads: every served file, gzipped, must fit the budget.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const BUDGET = 150 * 1024;
const root = fileURLToPath(new URL("../../chatpager/server/static/", import.meta.url));

const sizes = readdirSync(root, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && !entry.name.endsWith(".md"))
  .map((entry) => join(entry.parentPath, entry.name))
  .map((path) => [path.slice(root.length), gzipSync(readFileSync(path), { level: 9 }).length]);

for (const [name, bytes] of sizes) console.log(`${String(bytes).padStart(7)}  ${name}`);
const total = sizes.reduce((sum, [, bytes]) => sum + bytes, 0);
console.log(`${String(total).padStart(7)}  bytes gzipped, of ${BUDGET} allowed`);
if (total > BUDGET) {
  console.error("the page is over its budget");
  process.exit(1);
}
