import { links } from '../.vitepress/references.mjs';

export default { load: () => links(process.env.SITE_BASE ?? '/') };
