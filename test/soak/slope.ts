/** Does it grow? A straight line through medians, by least squares, and how far the slope may be off. */

export interface Slope {
  readonly perHour: number
  /** Standard error of it. */
  readonly error: number
}

export interface Point {
  readonly atMs: number
  readonly value: number
}

const HOUR_MS = 3_600_000

/** One point for each window: what lasts a moment is not seen in a median. */
export function medians(points: readonly Point[], windowMs: number): Point[] {
  return [...Map.groupBy(points, ({ atMs }) => Math.floor(atMs / windowMs))].map(([window, inside]) => {
    const values = inside.map(({ value }) => value).toSorted((a, b) => a - b)
    return { atMs: (window + 0.5) * windowMs, value: values[Math.floor(values.length / 2)] ?? 0 }
  })
}

export function slopeOf(points: readonly Point[]): Slope {
  const count = points.length
  if (count < 3) return { perHour: 0, error: Number.POSITIVE_INFINITY }
  const meanAt = points.reduce((sum, { atMs }) => sum + atMs, 0) / count
  const mean = points.reduce((sum, { value }) => sum + value, 0) / count
  const spread = points.reduce((sum, { atMs }) => sum + (atMs - meanAt) ** 2, 0)
  const slope = points.reduce((sum, { atMs, value }) => sum + (atMs - meanAt) * (value - mean), 0) / spread
  const rest = points.reduce((sum, { atMs, value }) => sum + (value - mean - slope * (atMs - meanAt)) ** 2, 0)
  return { perHour: slope * HOUR_MS, error: Math.sqrt(rest / (count - 2) / spread) * HOUR_MS }
}

/** What is more than chance, two standard errors, and more than matters. */
export function isGrowing({ perHour, error }: Slope, tolerancePerHour: number): boolean {
  return perHour - 2 * error > tolerancePerHour
}
