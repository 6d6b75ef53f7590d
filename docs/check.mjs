// Checks the links of the built site: every page is reached from the first one, and every link between pages leads to a
// page and to a heading that exist.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const SITE = fileURLToPath(new URL('../target/site', import.meta.url));
const BASE = process.env.SITE_BASE ?? '/';

const pages = new Map();
for (const file of fs.readdirSync(SITE, { recursive: true })) {
  if (!file.endsWith('.html') || file === '404.html' || file.startsWith('api/')) continue;
  const html = fs.readFileSync(path.join(SITE, file), 'utf8');
  const ids = new Set([...html.matchAll(/ id="([^"]*)"/g)].map(([, id]) => id));
  const links = [...html.matchAll(/<a [^>]*href="([^"]*)"/g)].map(([, href]) => href);
  pages.set(file, { ids, links });
}

/** The faults, each at the first page that has it: most links of the sidebar are those of all pages. */
const faults = new Map();
const report = (file, fault) => faults.set(fault, faults.get(fault) ?? file);
const reached = new Set(['index.html']);
for (const file of reached) {
  for (const href of new Set(pages.get(file).links)) {
    if (/^[a-z]+:/.test(href)) continue;
    const { pathname, hash } = new URL(href, `site://site${BASE}${file}`);
    const name = decodeURI(pathname).slice(BASE.length);
    const target = name === '' || name.endsWith('/') ? `${name}index.html` : name;
    const page = pages.get(target);
    const id = decodeURIComponent(hash.slice(1));
    if (page === undefined) {
      if (!fs.existsSync(path.join(SITE, target))) report(file, `${href} leads nowhere`);
      continue;
    }
    reached.add(target);
    if (id !== '' && !page.ids.has(id)) report(file, `${href} names no heading of ${target}`);
  }
}
for (const file of pages.keys()) {
  if (!reached.has(file)) report(file, `${file} is not reached from the first page: add it to the sidebar`);
}
if (faults.size > 0) {
  for (const [fault, file] of faults) console.error(`${file}: ${fault}`);
  process.exit(1);
}
console.log(`${pages.size} pages, whose links and anchors all lead somewhere.`);
