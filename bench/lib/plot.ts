/**
 * Line plots as SVG, readable on light and dark pages alike: linear or logarithmic axes with round
 * ticks, one line and one mark per series, a legend below the title. Deterministic: the same points
 * give the same bytes.
 */

export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

export interface Axis {
  readonly label: string;
  readonly scale: 'linear' | 'log';
}

export interface Plot {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

const WIDTH = 760;
const PLOT_HEIGHT = 340;
const LEFT = 76;
const RIGHT = 20;
const TITLE_HEIGHT = 34;
const LEGEND_ROW_HEIGHT = 20;
const LEGEND_COLUMNS = 3;
const BOTTOM = 52;
const LINEAR_TICKS = 6;
/** Okabe and Ito's colours, told apart by colour-blind readers too, without black and yellow. */
const COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'];
const DASHES = ['', '7 4', '2 4'];

const STYLE = `
  .page { fill: #ffffff; }
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .title { font-size: 15px; font-weight: 600; }
  .grid { stroke: #d0d7de; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; }
    text { fill: #e6edf3; }
    .grid { stroke: #30363d; }
  }`;

interface Scale {
  readonly ticks: readonly number[];
  readonly at: (value: number) => number;
}

/** Steps of 1, 2 or 5 times a power of ten. */
function roundStep(span: number): number {
  const rough = span / LINEAR_TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
}

function linearScale(values: readonly number[], from: number, to: number): Scale {
  const step = roundStep(Math.max(...values, Number.MIN_VALUE));
  const count = Math.max(1, Math.ceil(Math.max(...values) / step));
  const ticks = Array.from({ length: count + 1 }, (_, index) => index * step);
  return { ticks, at: (value) => from + (value / (count * step)) * (to - from) };
}

function logScale(values: readonly number[], from: number, to: number): Scale {
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  const ticks = Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index));
  return { ticks, at: (value) => from + ((Math.log10(value) - low) / (high - low)) * (to - from) };
}

function scaleFor(axis: Axis, values: readonly number[], from: number, to: number): Scale {
  return axis.scale === 'log' ? logScale(values, from, to) : linearScale(values, from, to);
}

function format(value: number): string {
  return value >= 1000 ? value.toLocaleString('en-US') : String(Number(value.toPrecision(3)));
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

function coordinate(value: number): string {
  return value.toFixed(1);
}

function styleOf(index: number): { color: string; dash: string } {
  const dash = DASHES[Math.floor(index / COLORS.length) % DASHES.length] ?? '';
  return { color: COLORS[index % COLORS.length] ?? '#0072b2', dash };
}

function legend(series: readonly Series[], top: number): string[] {
  const columnWidth = (WIDTH - LEFT - RIGHT) / LEGEND_COLUMNS;
  return series.map(({ name }, index) => {
    const { color, dash } = styleOf(index);
    const x = LEFT + (index % LEGEND_COLUMNS) * columnWidth;
    const y = top + Math.floor(index / LEGEND_COLUMNS) * LEGEND_ROW_HEIGHT;
    return (
      `<path d="M${x} ${y}h22" stroke="${color}" stroke-width="2.5" stroke-dasharray="${dash}"/>` +
      `<text x="${x + 28}" y="${y + 4}">${escape(name)}</text>`
    );
  });
}

function line(series: Series, index: number, x: Scale, y: Scale): string {
  const { color, dash } = styleOf(index);
  const points = series.points.map(
    ([px, py]) => `${coordinate(x.at(px))},${coordinate(y.at(py))}` as const,
  );
  const marks = points.map((point) => {
    const [cx, cy] = point.split(',');
    return `<circle cx="${cx}" cy="${cy}" r="3.2" fill="${color}"/>`;
  });
  return (
    `<polyline points="${points.join(' ')}" fill="none" stroke="${color}" stroke-width="2" ` +
    `stroke-dasharray="${dash}"/>${marks.join('')}`
  );
}

/** Draws a plot; points that a logarithmic axis cannot show are left out. */
export function drawPlot(plot: Plot): string {
  const shows = (value: number, axis: Axis): boolean =>
    Number.isFinite(value) && (axis.scale === 'linear' || value > 0);
  const series = plot.series
    .map(({ name, points }) => ({
      name,
      points: points.filter(([px, py]) => shows(px, plot.x) && shows(py, plot.y)),
    }))
    .filter(({ points }) => points.length > 0);
  if (series.length === 0) throw new RangeError(`nothing to draw: ${plot.title}`);
  const legendRows = Math.ceil(series.length / LEGEND_COLUMNS);
  const top = TITLE_HEIGHT + legendRows * LEGEND_ROW_HEIGHT + 8;
  const bottom = top + PLOT_HEIGHT;
  const height = bottom + BOTTOM;
  const all = series.flatMap(({ points }) => points);
  const x = scaleFor(
    plot.x,
    all.map(([value]) => value),
    LEFT,
    WIDTH - RIGHT,
  );
  const y = scaleFor(
    plot.y,
    all.map(([, value]) => value),
    bottom,
    top,
  );
  const grid = [
    ...x.ticks.map((tick) => {
      const at = coordinate(x.at(tick));
      return (
        `<path class="grid" d="M${at} ${top}V${bottom}"/>` +
        `<text x="${at}" y="${bottom + 18}" text-anchor="middle">${format(tick)}</text>`
      );
    }),
    ...y.ticks.map((tick) => {
      const at = y.at(tick);
      return (
        `<path class="grid" d="M${LEFT} ${coordinate(at)}H${WIDTH - RIGHT}"/>` +
        `<text x="${LEFT - 8}" y="${coordinate(at + 4)}" text-anchor="end">${format(tick)}</text>`
      );
    }),
  ];
  const middle = (top + bottom) / 2;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">`,
    `<title>${escape(plot.title)}</title><style>${STYLE}\n</style>`,
    `<rect class="page" width="${WIDTH}" height="${height}"/>`,
    `<text class="title" x="${LEFT}" y="22">${escape(plot.title)}</text>`,
    ...legend(series, TITLE_HEIGHT + 8),
    ...grid,
    ...series.map((one, index) => line(one, index, x, y)),
    `<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${bottom + 40}" text-anchor="middle">${escape(plot.x.label)}</text>`,
    `<text transform="translate(16 ${middle}) rotate(-90)" text-anchor="middle">${escape(plot.y.label)}</text>`,
    '</svg>\n',
  ].join('\n');
}
