import { plots } from '../.vitepress/plots.mjs';

export default { watch: ['../../perf/record/*/results.json'], load: plots };
