// The pages are the Markdown files of the repository where they are: those of docs/, and the documents that stand
// beside the code they describe. Their links name files of the repository, so that they work in a clone as well.
import { fileURLToPath } from 'node:url';

import { repositoryLinks } from './links.mjs';
import { copy as copyReferences } from './references.mjs';

/** Documents outside docs/ and their addresses on the site. */
const DOCUMENTS = {
  'PROTOCOL.md': 'about/protocol.md',
  'SECURITY.md': 'operating/security.md',
  'CHANGELOG.md': 'about/changelog.md',
  'CONTRIBUTING.md': 'about/contributing.md',
  'clients/node/README.md': 'reference/node.md',
  'clients/node/MIGRATING.md': 'start/migrating-node.md',
  'clients/python/README.md': 'reference/python.md',
  'clients/python/MIGRATING.md': 'start/migrating-python.md',
  'perf/README.md': 'about/measuring.md',
  'fuzz/README.md': 'about/fuzzing.md',
  'src/simulation/README.md': 'about/simulation.md',
};

/** Returns the address of a file, as a path of the site; files without one are not part of it. */
function address(file) {
  return DOCUMENTS[file] ?? (file.startsWith('docs/') ? file.slice('docs/'.length) : undefined);
}

const section = (text, ...items) => ({ text, items: items.map(([title, link]) => ({ text: title, link })) });

const SIDEBAR = [
  section(
    'Getting started',
    ['Which package', '/packages'],
    ['Python client', '/start/python'],
    ['Node.js client', '/start/node'],
    ['Rust client', '/start/rust'],
    ['Server in Python', '/start/server-python'],
    ['Server in Rust', '/start/server-rust'],
    ['From ipc-framework 1.1.2', '/start/migrating-python'],
    ['From @ifesol/ipc-framework-nodejs', '/start/migrating-node'],
  ),
  section(
    'Capabilities',
    ['Applications and channels', '/guide/channels'],
    ['Requests', '/guide/requests'],
    ['Serving', '/guide/serving'],
    ['Publish and subscribe', '/guide/publish-subscribe'],
    ['Patterns, last values, histories', '/guide/topics'],
    ['Notifications', '/guide/notifications'],
    ['Deadlines and cancelling', '/guide/deadlines'],
    ['Streams', '/guide/streams'],
    ['Bytes, arrays and tensors', '/guide/attachments'],
    ['Application errors', '/guide/errors'],
    ['Reconnecting, several servers, pools', '/guide/connections'],
    ['Several machines, over NATS', '/guide/several-servers'],
    ['Shared memory', '/guide/shared-memory'],
    ['Tokens and access', '/guide/access'],
    ['TLS', '/guide/tls'],
    ['Embedding the server', '/guide/embedding'],
    ['The command line', '/guide/command-line'],
  ),
  section(
    'Cookbook',
    ['Model server behind Express', '/cookbook/model-server'],
    ['Token stream', '/cookbook/token-stream'],
    ['Dashboard', '/cookbook/dashboard'],
    ['Worker pool', '/cookbook/worker-pool'],
    ['Several machines', '/cookbook/machines'],
    ['Your own event loop', '/cookbook/own-loop'],
  ),
  section(
    'Operating',
    ['Running the server', '/operating/'],
    ['Limits', '/operating/limits'],
    ['systemd', '/operating/systemd'],
    ['Containers', '/operating/container'],
    ['Logs', '/operating/logs'],
    ['Metrics and alerts', '/operating/metrics'],
    ['Health and status page', '/operating/health'],
    ['Security', '/operating/security'],
  ),
  section(
    'Reference',
    ['API references', '/reference/'],
    ['Python package', '/reference/python'],
    ['Node.js package', '/reference/node'],
    ['Protocol', '/about/protocol'],
  ),
  section(
    'About',
    ['What it is not', '/about/what-it-is-not'],
    ['Performance', '/about/performance'],
    ['How it is measured', '/about/measuring'],
    ['Architecture', '/about/architecture'],
    ['Contributing', '/about/contributing'],
    ['Changelog', '/about/changelog'],
  ),
];

/** The packages of a page outside docs/ are those of docs/, too. */
const PACKAGES = {
  name: 'packages-of-docs',
  enforce: 'pre',
  resolveId(id, importer, options) {
    if (!importer?.endsWith('.md') || !/^vue(\/|$)/.test(id)) return null;
    return this.resolve(id, fileURLToPath(import.meta.url), { ...options, skipSelf: true });
  },
};

export default {
  title: 'ipc-framework',
  description: 'Joins Python, Node.js and Rust processes as if they were one program',
  lang: 'en',
  srcDir: '..',
  outDir: '../target/site',
  cacheDir: '../target/site-cache',
  srcExclude: ['README.md', 'target/**', '**/node_modules/**', 'perf/record/**', 'findings/**', 'dist/**', '.*/**',
    'clients/python/PYTHON.md'],
  rewrites: (file) => address(file) ?? file,
  // A path of the server's own, such as /docs/, for a site that is not at the root of its host.
  base: process.env.SITE_BASE ?? '/',
  // A text of the documents is never a template of Vue or a list of attributes.
  markdown: {
    attrs: { disable: true },
    languageAlias: { wire: 'json' },
    config: (md) => md.use(repositoryLinks, { address, repository: process.env.SITE_REPOSITORY }),
  },
  vite: { plugins: [PACKAGES] },
  buildEnd: ({ outDir }) => copyReferences(outDir),
  themeConfig: {
    nav: [
      { text: 'Start', link: '/start/python' },
      { text: 'Capabilities', link: '/guide/requests' },
      { text: 'Cookbook', link: '/cookbook/model-server' },
      { text: 'Operating', link: '/operating/' },
      { text: 'Reference', link: '/reference/' },
    ],
    sidebar: SIDEBAR,
    outline: [2, 3],
    search: { provider: 'local' },
  },
};
