// The API references that docs/references has made, if it has: the site contains those that are there.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const MADE = fileURLToPath(new URL('../../target/references', import.meta.url));
const FIRST_PAGES = {
  Python: 'python/ipc_framework.html',
  'Node.js': 'node/index.html',
  Rust: 'rust/ipc_framework/index.html',
};

/** Returns links to them, as HTML. */
export function links(base) {
  return Object.entries(FIRST_PAGES)
    .filter(([, page]) => fs.existsSync(path.join(MADE, page)))
    .map(([language, page]) => `<a href="${base}api/${page}" target="_self">${language}</a>`)
    .join(', ');
}

/** Copies them into a site that has been built. */
export function copy(site) {
  if (fs.existsSync(MADE)) fs.cpSync(MADE, path.join(site, 'api'), { recursive: true });
}
