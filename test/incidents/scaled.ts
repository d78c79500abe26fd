/**
 * Time in an incident runs faster: what the rules, Alertmanager and the settings call a minute passes in four seconds. The proxy itself is not
 * sped up: what it needs real seconds for (to notice that Redis hangs, say) counts fifteenfold, so delays are rather too long than too short.
 */

export const SPEED = 15

const unitMs = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 } as const

/** Durations of Prometheus and Alertmanager, such as `5m`; a result below a second is a second. */
export function scaledDuration(text: string): string {
  const [, count = '0', unit = 's'] = /^(\d+)(ms|[smhdw])$/.exec(text) ?? []
  const ms = (Number(count) * unitMs[unit as keyof typeof unitMs]) / SPEED
  return `${Math.max(1, Math.round(ms / 1_000))}s`
}

/**
 * Every duration of the rules (windows, `offset`, `for`, `interval`), the events of five minutes, which are counted by their rate, and the
 * minute below which upstream is never slow. Shares and counts stay what they are.
 */
export function scaledRules(text: string): string {
  return text
    .replaceAll(/(?<=\[|:|offset )(\d+(?:ms|[smhdw]))(?=\]|:|\s|\))/g, (one) => scaledDuration(one))
    .replaceAll(/(?<=\bfor: |\binterval: )(\d+[smhdw])/g, (one) => scaledDuration(one))
    .replaceAll(/\b300 \* /g, `${300 / SPEED} * `)
    .replaceAll('attempt_seconds:p95_5m > 60', `attempt_seconds:p95_5m > ${60 / SPEED}`)
}

/** `group_wait` and its like. */
export function scaledRoutes(text: string): string {
  return text.replaceAll(/(?<=(?:_wait|_interval): )(\d+[smhdw])/g, (one) => scaledDuration(one))
}

/** Real milliseconds as what they are to the rules, in seconds. */
export function ruleSeconds(realMs: number): number {
  return Math.round((realMs * SPEED) / 1_000)
}
