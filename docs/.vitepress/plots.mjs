// Plots of the newest record in perf/record, as SVG. The page about performance has them in it; `node
// docs/.vitepress/plots.mjs FOLDER` writes them as files.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const RECORDS = fileURLToPath(new URL('../../perf/record', import.meta.url));
const COLOURS = { ipc: '#3b5bdb', python: '#3b5bdb', bare: '#868e96', redis: '#e03131', nats: '#2f9e44', zeromq: '#f08c00',
  published: '#e03131' };
const LABELS = { ipc: 'this server', python: 'this package', bare: 'bare loop', redis: 'Redis', nats: 'NATS',
  zeromq: 'ZeroMQ', published: 'ipc-framework 1.1.2' };
const [WIDTH, LEFT, RIGHT] = [720, 150, 110];

const records = () => fs.readdirSync(RECORDS).map((name) => path.join(RECORDS, name, 'results.json'));

/** Returns the plots by name, of the newest record. */
export function plots() {
  const newest = records().filter((file) => fs.existsSync(file)).sort().at(-1);
  const { scenarios, date, machine } = JSON.parse(fs.readFileSync(newest, 'utf8'));
  const scenario = (name) => scenarios.find((one) => one.name === name);
  const figures = (name, entrants, figure) => entrants.map((entrant) => ({
    entrant, ...spread(scenario(name).entrants.find((one) => one.name === entrant).figures[figure]),
  }));
  const percentiles = (name, entrants) => entrants.map((entrant) => ({
    entrant,
    // A nine for every step to the right: 0.9, 0.99, 0.999.
    points: scenario(name).entrants.find((one) => one.name === entrant).percentiles
      .filter(([share]) => share <= 0.9999).map(([share, micros]) => [-Math.log10(1 - share), micros]),
  }));
  const by = `${date}, ${machine.cpu}`;
  const five = ['ipc', 'bare', 'redis', 'nats', 'zeromq'];
  return {
    latency: curves(`Latency of one blocking client, µs (${by})`, percentiles('one-client', ['ipc', 'bare', 'redis', 'nats'])),
    throughput: bars(`Requests a second, 100 clients (${by})`, figures('hundred-clients', five, 'per_second')),
    fanOut: bars(`Deliveries a second, fan-out to 100, 100 in flight (${by})`, figures('fan-out-hundred', five, 'per_second')),
    python: bars(`Requests a second of an echo handler in Python, 100 clients (${by})`,
      figures('python-handler-hundred', ['python', 'published'], 'per_second')),
  };
}

function spread(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: sorted[Math.floor(sorted.length / 2)], min: sorted[0], max: sorted.at(-1) };
}

const number = (value) => Math.round(value).toLocaleString('en');
const text = (x, y, what, more = '') => `<text x="${x}" y="${y}" fill="currentColor" ${more}>${what}</text>`;

function svg(title, height, body) {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${title}" `
    + `font-family="system-ui, sans-serif" font-size="13">${text(0, 16, title, 'font-weight="600"')}${body}</svg>`;
}

/** Horizontal bars of medians. A whisker goes from the slowest to the fastest repetition. */
function bars(title, entries) {
  const most = Math.max(...entries.map((entry) => entry.max));
  const x = (value) => LEFT + (value / most) * (WIDTH - LEFT - RIGHT);
  const rows = entries.map(({ entrant, median, min, max }, at) => {
    const y = 34 + at * 32;
    return text(LEFT - 8, y + 15, LABELS[entrant], 'text-anchor="end"')
      + `<rect x="${LEFT}" y="${y}" width="${(x(median) - LEFT).toFixed(1)}" height="22" rx="2" fill="${COLOURS[entrant]}"/>`
      + `<path d="M${x(min).toFixed(1)} ${y + 11}H${x(max).toFixed(1)}M${x(min).toFixed(1)} ${y + 6}v10`
      + `M${x(max).toFixed(1)} ${y + 6}v10" stroke="currentColor" fill="none"/>`
      + text(x(max) + 8, y + 15, number(median));
  });
  return svg(title, 40 + entries.length * 32, rows.join(''));
}

/** Latency by percentile, on a logarithmic scale. */
function curves(title, series) {
  const [height, top, bottom, left] = [300, 30, 40, 50];
  const all = series.flatMap(({ points }) => points.map(([, micros]) => micros));
  const [low, high] = [Math.log10(30), Math.ceil(Math.log10(Math.max(...all)) * 2) / 2];
  const x = (nines) => left + (nines / 4) * (WIDTH - left - RIGHT);
  const y = (micros) => height - bottom - ((Math.log10(Math.max(micros, 30)) - low) / (high - low)) * (height - bottom - top);
  const rows = [30, 100, 300, 1000, 3000, 10_000].filter((micros) => Math.log10(micros) <= high).map((micros) => (
    `<path d="M${left} ${y(micros).toFixed(1)}H${WIDTH - RIGHT}" stroke="currentColor" opacity="0.2"/>`
    + text(left - 6, y(micros) + 4, number(micros), 'text-anchor="end"')));
  const steps = ['0', '90 %', '99 %', '99.9 %', '99.99 %'].map((label, nines) => (
    text(x(nines), height - 18, label, 'text-anchor="middle"')));
  const lines = series.map(({ entrant, points }) => (
    `<polyline fill="none" stroke="${COLOURS[entrant]}" stroke-width="2" points="`
    + `${points.map(([nines, micros]) => `${x(nines).toFixed(1)},${y(micros).toFixed(1)}`).join(' ')}"/>`));
  const legend = series.map(({ entrant }, at) => (
    `<rect x="${WIDTH - RIGHT + 12}" y="${top + at * 22}" width="12" height="12" fill="${COLOURS[entrant]}"/>`
    + text(WIDTH - RIGHT + 30, top + at * 22 + 11, LABELS[entrant])));
  return svg(title, height, [...rows, ...steps, ...lines, ...legend].join(''));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [folder] = process.argv.slice(2);
  if (folder === undefined) throw new Error('name a folder: node docs/.vitepress/plots.mjs FOLDER');
  fs.mkdirSync(folder, { recursive: true });
  for (const [name, plot] of Object.entries(plots())) fs.writeFileSync(path.join(folder, `${name}.svg`), plot);
}
