/** The plots of the report: what a reader must find in them, and nothing outside of the picture. */
import { describe, expect, it } from 'vitest';
import { drawPlot, type Plot } from '../../bench/lib/plot.ts';

const PLOT: Plot = {
  title: 'Sent < raw & more',
  x: { label: 'pages', scale: 'log' },
  y: { label: 'ms', scale: 'linear' },
  series: [
    {
      name: 'kv',
      points: [
        [100, 0.5],
        [1000, 1.25],
        [100_000, 47],
      ],
    },
    {
      name: 'idle',
      points: [
        [0, 3],
        [Number.NaN, 3],
      ],
    },
  ],
};

function numbersOf(svg: string, attribute: string): number[] {
  return [...svg.matchAll(new RegExp(` ${attribute}="([-\\d.]+)"`, 'g'))].map(([, text]) =>
    Number(text),
  );
}

describe('a plot', () => {
  it('has one mark for each point that its axes can show', () => {
    expect(drawPlot(PLOT).match(/<circle/g)).toHaveLength(3);
  });

  it('names only the series that are drawn, as text and not as markup', () => {
    const svg = drawPlot(PLOT);
    expect(svg).toContain('>kv</text>');
    expect(svg).not.toContain('idle');
    expect(svg).toContain('Sent &lt; raw &amp; more');
  });

  it('has ticks at powers of ten on a logarithmic axis and round steps on a linear one', () => {
    const svg = drawPlot(PLOT);
    for (const tick of ['100', '1,000', '10,000', '100,000', '0', '10', '50'])
      expect(svg).toContain(`>${tick}</text>`);
  });

  it('keeps every mark and word inside the picture', () => {
    const svg = drawPlot(PLOT);
    const [, width = 0, height = 0] = (/viewBox="0 0 (\d+) (\d+)"/.exec(svg) ?? []).map(Number);
    for (const x of [...numbersOf(svg, 'cx'), ...numbersOf(svg, 'x')])
      expect(x >= 0 && x <= width).toBe(true);
    for (const y of [...numbersOf(svg, 'cy'), ...numbersOf(svg, 'y')])
      expect(y >= 0 && y <= height).toBe(true);
  });

  it('is the same for the same points', () => {
    expect(drawPlot(PLOT)).toBe(drawPlot(PLOT));
  });

  it('refuses to draw nothing', () => {
    expect(() => drawPlot({ ...PLOT, series: [] })).toThrow(RangeError);
  });
});
