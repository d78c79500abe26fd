/** The pictures of the status page: requests, latency, credits and open requests over one span, on the same scale of time. */
import { type History, shownMsOf, type Span, stepMsOf } from '../telemetry/history.ts'
import type { Step } from '../telemetry/history-step.ts'
import { outcomeNames } from '../telemetry/outcome-status.ts'
import { msText } from '../telemetry/trail.ts'
import { type Chart, chartOf } from './charts.ts'
import { countOf, html, type Markup } from './html.ts'
import type { HourReport } from './status.ts'

const outcomeWords = {
  cached: 'from cache or shared',
  fetched: 'asked upstream',
  stale: 'expired',
  refused: 'refused',
  failed: 'failed',
} as const
const outcomeColours = { cached: 'c1', fetched: 'c2', stale: 'c3', refused: 'c4', failed: 'c5' } as const

/** `now` is of the wall. The same markup until the step of now is over. */
export function picturesOf(history: Pick<History, 'steps' | 'marks'>, params: URLSearchParams, now: number): Markup {
  const span: Span = params.get('span') === 'day' ? 'day' : 'hour'
  const steps = history.steps(span)
  const stepMs = stepMsOf(span)
  // The same picture until the step is over.
  const to = Math.floor(now / stepMs) * stepMs + stepMs
  const shared = {
    at: steps.map(({ at }) => at),
    from: to - shownMsOf[span],
    to,
    stepMs,
    marks: history.marks(span),
  }
  const values = (read: (step: Step) => number | null): readonly (number | null)[] => steps.map(read)
  const charts: readonly Pick<Chart, 'title' | 'kind' | 'series' | 'show'>[] = [
    {
      title: 'Requests by outcome',
      kind: 'stacked',
      show: countOf,
      series: outcomeNames.map((name) => ({
        name: outcomeWords[name],
        colour: outcomeColours[name],
        values: values(({ requests }) => requests[name]),
      })),
    },
    {
      title: 'Latency of misses',
      kind: 'lines',
      show: msText,
      series: [
        { name: 'p50', colour: 'c2', values: values(({ p50Ms }) => p50Ms) },
        { name: 'p95', colour: 'c4', values: values(({ p95Ms }) => p95Ms) },
      ],
    },
    {
      title: 'Credits',
      kind: 'stacked',
      show: countOf,
      series: [
        { name: 'spent', colour: 'c2', values: values(({ spentCredits }) => spentCredits) },
        { name: 'saved', colour: 'c1', values: values(({ savedCredits }) => savedCredits) },
      ],
    },
    {
      title: 'Open requests',
      kind: 'lines',
      show: countOf,
      series: [{ name: 'most at a time', colour: 'c2', values: values(({ openQuestions }) => openQuestions) }],
    },
  ]
  const spans =
    span === 'hour'
      ? html`<strong>last hour</strong> · <a href="${hrefOf(params, 'day')}">last day</a>`
      : html`<a href="${hrefOf(params, 'hour')}">last hour</a> · <strong>last day</strong>`
  return html`<p>
      ${spans}, in steps of ${msText(shared.stepMs)}, times UTC. A dashed line marks a change: settings, circuits, keys,
      stores, starts.
    </p>
    <div class="grid charts">${charts.map((chart) => chartOf({ ...chart, ...shared }))}</div>`
}

/** The same page with the pictures of another span. */
function hrefOf(params: URLSearchParams, span: Span): string {
  const next = new URLSearchParams(params)
  next.delete('fragment')
  next.set('span', span)
  return `/?${next.toString()}`
}

/** One line for a glance: what callers got, and what it cost. */
export function hourText(hour: HourReport): string {
  const percent = (share: number | null): string => (share === null ? '–' : `${(share * 100).toFixed(1)} %`)
  const latency = (ms: number | null): string => (ms === null ? '–' : msText(ms))
  const words = [
    `${percent(hour.success_ratio)} answered`,
    `${hour.requests_per_minute.toFixed(1)} requests/min`,
    ...(hour.refused > 0 ? [`${countOf(hour.refused)} refused`] : []),
    `${percent(hour.hit_ratio)} hits`,
    `misses p50 ${latency(hour.p50_ms)}, p95 ${latency(hour.p95_ms)}`,
    `${countOf(hour.credits_spent)} credits/h spent, ${countOf(hour.credits_saved)} saved`,
  ]
  return words.join(' · ')
}
