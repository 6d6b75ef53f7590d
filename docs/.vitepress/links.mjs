// Links of the documents name files of the repository. On the site, a link to a document leads to its page, and a link to
// another file to the repository's pages, if it is known where these are. A link to a file that does not exist is an
// error, of which the build fails.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

export function repositoryLinks(md, { address, repository }) {
  md.core.ruler.push('repository-links', (state) => {
    const page = path.relative(ROOT, state.env.realPath ?? state.env.path);
    for (const { children } of state.tokens.filter((token) => token.type === 'inline')) {
      // Links do not nest: whether the last one that was opened has been taken away.
      let isPlain = false;
      for (const token of children) {
        if (token.type === 'link_open') isPlain = !follow(token, page);
        if (isPlain && token.type.startsWith('link_')) Object.assign(token, { type: 'text', content: '' });
      }
    }
  });

  /** Gives the link its target on the site; returns false if there is none. */
  function follow(token, page) {
    const href = token.attrGet('href');
    if (/^([a-z]+:|#|\/)/.test(href)) return true;
    const [, name, hash] = /^([^#]*)(.*)$/.exec(href);
    const file = path.join(path.dirname(page), decodeURI(name));
    if (!fs.existsSync(path.join(ROOT, file))) throw new Error(`${page} links to ${href}, which does not exist`);
    const target = file === 'README.md' ? 'index.md' : address(file.replace(/\/$/, ''));
    if (target?.endsWith('.md')) token.attrSet('href', `/${target}${hash}`);
    else if (repository) token.attrSet('href', `${repository}/${file}`);
    else return false;
    return true;
  }
}
