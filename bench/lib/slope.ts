/** Whether a figure grows. Pure. */

/** A figure at an instant. */
export interface Point {
  readonly atMs: number;
  readonly value: number;
}

const MS_PER_MINUTE = 60_000;

/** How much the figure grows a minute: the line with the least squares. 0 for fewer than two points. */
export function slopePerMinute(points: readonly Point[]): number {
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const meanAt = mean(points.map(({ atMs }) => atMs));
  const meanValue = mean(points.map(({ value }) => value));
  let products = 0;
  let squares = 0;
  for (const { atMs, value } of points) {
    products += (atMs - meanAt) * (value - meanValue);
    squares += (atMs - meanAt) ** 2;
  }
  return squares === 0 || Number.isNaN(squares) ? 0 : (products / squares) * MS_PER_MINUTE;
}
