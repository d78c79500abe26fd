/** The page of a request's trail: what it got, and every attempt with its time, its outcome and why it was or was not repeated. */
import type { AdminAnswer } from './admin.ts'
import {
  type AttemptTrail,
  type FlightTrail,
  msText,
  reasonText,
  type Trail,
  troubleText,
  whyOf,
} from '../telemetry/trail.ts'
import { bar, fragmentAnswer, html, type Markup, nothing, pageAnswer, timeOf, trailHref, tag } from './html.ts'
import { statusTag } from './requests-section.ts'
import { trailForm } from './status-page.ts'

/** `trails` are those of one id, the newest first. */
export function trailAnswer(id: string, trails: readonly Trail[], now: number, isFragment: boolean): AdminAnswer {
  const page = {
    title: `Request ${id}`,
    head: headOf(),
    main: html`<div class="stack" id="trails" data-live>
      ${trails.map((trail, index) => partOf(trail, index, now))}
    </div>`,
    isLive: trails.some(isUnderWay),
  }
  return isFragment ? fragmentAnswer(page) : pageAnswer(page)
}

/** There is none; `why` says what is known about that. */
export function noTrailAnswer(why: string): AdminAnswer {
  return pageAnswer({
    title: 'No trail',
    status: 404,
    head: headOf(),
    main: html`<section>
      <h2>No trail</h2>
      <p>${why}</p>
    </section>`,
    isLive: false,
  })
}

function headOf(): Markup {
  return html`<nav aria-label="Pages"><a href="/">← Status</a></nav>
    <h1 class="grow">Request trail</h1>
    ${trailForm()}`
}

function isUnderWay({ status, flight }: Trail): boolean {
  return status === null || flight?.landedAt === null
}

function partOf(trail: Trail, index: number, now: number): Markup {
  const { id, flight } = trail
  const title = `trail-${index}`
  return html`<section aria-labelledby="${title}">
    <h2 id="${title}"><span class="hidden">Request </span><span class="id">${id}</span></h2>
    <div class="stack">${factsOf(trail)} ${flight ? flightOf(flight, now, title) : nothing} ${eventsOf(trail)}</div>
  </section>`
}

function factsOf(trail: Trail): Markup {
  const { at, durationMs, client, scraper, endpoint, status, code, reason, detail, cache, tier, credits } = trail
  const took = durationMs === null ? 'under way' : `took ${msText(durationMs)}`
  return html`<dl>
    ${fact('Came', html`${momentOf(at)}, ${took}`)} ${fact('Asked by', text(client))}
    ${fact('For', text(endpoint === null ? scraper : `${scraper}, ${endpoint}`))}
    ${fact('Answer', html`${statusTag(status, null)} ${code ?? ''}${reason === null ? '' : `, ${reason}`}`)}
    ${detail === null ? nothing : fact('It was told', text(detail))}
    ${cache === null ? nothing : fact('Cache', text(tier === null ? cache : `${cache}, ${tier}`))}
    ${fact('Credits', text(String(credits)))} ${rideOf(trail)}
    ${trail.promptHash === null ? nothing : fact('Prompt hash', html`<span class="id">${trail.promptHash}</span>`)}
    ${trail.prompt === null ? nothing : fact('Prompt', text(trail.prompt))}
    ${trail.traceId === null ? nothing : fact('Trace', html`<span class="id">${trail.traceId}</span>`)}
  </dl>`
}

function rideOf({ role, flight, stoppedBy }: Trail): Markup {
  if (!role) return nothing
  if (!flight) return fact('Flight', text('shared, for nothing, with a request that another replica asked for'))
  const left =
    stoppedBy && stoppedBy !== flight.stoppedBy ? `. It was not waited for to its end: ${reasonText(stoppedBy)}` : ''
  return fact('Flight', html`${roleOf(role, flight)}${left}`)
}

function roleOf(role: NonNullable<Trail['role']>, { id }: FlightTrail): Markup {
  if (role === 'leader') return html`its own: it pays for it`
  if (role === 'joined')
    return html`shared, for nothing, with
    ${id === null ? 'another request' : html`<a class="id" href="${trailHref(id)}">${id}</a>`}`
  return html`for nobody who waited: to refresh an answer, or to finish what an earlier process began`
}

function fact(name: string, value: Markup): Markup {
  return html`<dt>${name}</dt>
    <dd>${value}</dd>`
}

function text(value: string): Markup {
  return html`${value}`
}

function flightOf(flight: FlightTrail, now: number, title: string): Markup {
  const spanMs = Math.max(1, (flight.landedAt ?? now) - flight.startedAt)
  const rows = flight.attempts.map((attempt, index) => rowOf(attempt, whyOf(flight, index), flight.startedAt, spanMs))
  if (flight.underWay) rows.push(underWayRow(flight.underWay, flight.startedAt, now, spanMs))
  if (rows.length === 0) return html`<p>Upstream has not been asked.</p>`
  return html`<div>
    <h3 class="hidden" id="${title}-attempts">Attempts</h3>
    <table class="cards" role="table" aria-labelledby="${title}-attempts">
      <thead role="rowgroup">
        <tr role="row">
          ${headings.map(([name, kind]) => html`<th role="columnheader" scope="col" class="${kind}">${name}</th>`)}
        </tr>
      </thead>
      <tbody role="rowgroup">
        ${rows}
      </tbody>
    </table>
  </div>`
}

const headings = [
  ['Attempt', ''],
  ['Began', ''],
  ['Waited', 'number'],
  ['Took', 'number'],
  ['Ended as', ''],
  ['Key', ''],
  ['Credits', 'number'],
  ['And then', ''],
] as const

function rowOf(attempt: AttemptTrail, why: string, startedAt: number, spanMs: number): Markup {
  const { class: ended, status, charge, durationMs, retryAfterMs, trouble } = attempt
  const isOk = ended === 'ok'
  const credits = charge.state === 'unknown' ? `${charge.credits}, perhaps` : String(charge.credits)
  const asked = retryAfterMs === null ? '' : `; upstream asked for ${msText(retryAfterMs)}`
  const kind = isOk ? 'good' : 'bad'
  return row(attempt, startedAt, spanMs, kind, durationMs, [
    ['Took', 'number', text(msText(durationMs))],
    ['Ended as', '', html`${tag(kind, ended)} ${status ?? troubleText(trouble)}`],
    ['Key', '', text(attempt.keyName)],
    ['Credits', 'number', text(credits)],
    ['And then', '', text(why + asked)],
  ])
}

function underWayRow(
  attempt: NonNullable<FlightTrail['underWay']>,
  startedAt: number,
  now: number,
  spanMs: number,
): Markup {
  const forMs = now - attempt.startedAt
  return row(attempt, startedAt, spanMs, 'warn', forMs, [
    ['Took', 'number', text(`${msText(forMs)} so far`)],
    ['Ended as', '', tag('warn', 'under way')],
    ['Key', '', text(attempt.keyName)],
    ['Credits', 'number', text('–')],
    ['And then', '', text('–')],
  ])
}

function row(
  { number, startedAt: at, waitedMs }: NonNullable<FlightTrail['underWay']>,
  startedAt: number,
  spanMs: number,
  kind: 'good' | 'warn' | 'bad',
  durationMs: number,
  cells: readonly (readonly [name: string, kind: string, value: Markup])[],
): Markup {
  const offset = at - startedAt
  return html`<tr role="row">
    <th role="rowheader" scope="row">
      <span class="narrow">Attempt ${number}</span><span class="wide">${number}</span>
    </th>
    <td role="cell" data-name="Began">
      <div>
        ${momentOf(at)} <span class="soft">+${msText(offset)}</span> ${bar(
          Math.max(0.01, durationMs / spanMs),
          kind,
          Math.min(0.99, offset / spanMs),
        )}
      </div>
    </td>
    <td role="cell" data-name="Waited" class="number"><div>${waitedMs === 0 ? '–' : msText(waitedMs)}</div></td>
    ${cells.map(([name, kind, value]) => html`<td role="cell" data-name="${name}" class="${kind}"><div>${value}</div></td>`)}
  </tr>`
}

function eventsOf({ events, flight }: Trail): Markup {
  const all = [...events, ...(flight?.events ?? [])]
  if (all.length === 0) return nothing
  return html`<div>
    <h3>What else happened</h3>
    <ul>
      ${all.map(({ at, text }) => html`<li>${momentOf(at)} ${text}</li>`)}
    </ul>
  </div>`
}

function momentOf(at: number): Markup {
  return timeOf(new Date(at).toISOString())
}
