/** The top of the status page: how the proxy is and since when, what is wrong with its settings, and the last hour in figures. */
import { msText } from '../telemetry/trail.ts'
import { html, leftOf, type Markup, nothing, timeOf } from './html.ts'
import { hourText } from './pictures.ts'
import type { StatusReport } from './status.ts'

const healthWords = { ok: 'OK', degraded: 'Degraded', starting: 'Starting', draining: 'Draining' } as const
const healthMarks = { good: '✓', warn: '!', bad: '✕' } as const

const actsShown = 3

export function healthSection({
  health,
  open_requests: open,
  uptime_seconds: uptime,
  config_generation: generation,
  settings: { mistakes, waiting_for_restart: waiting },
  time,
  last_hour: hour,
  same_hour_yesterday: yesterday,
  acts,
}: StatusReport): Markup {
  const { state, level, causes } = health
  const kind = level === 'outage' ? 'bad' : state === 'ok' ? 'good' : 'warn'
  const [first, ...others] = causes.map(
    ({ text, since }) => html`${text}, since ${timeOf(since)} (${leftOf(time, since)})`,
  )
  return html`<div id="health" data-live class="health ${kind}" role="status" aria-live="polite">
      <p>
        <span aria-hidden="true">${state === 'starting' || state === 'draining' ? '…' : healthMarks[kind]}</span>
        <strong>${healthWords[state]}${first === undefined ? '' : ':'}</strong> ${first ?? nothing}
      </p>
      ${others.map((one) => html`<p>${one}</p>`)}
      ${
        mistakes.length === 0
          ? nothing
          : html`<ul>
              ${mistakes.map((one) => html`<li>${one}</li>`)}
            </ul>`
      }
    </div>
    <p id="settings" data-live class="warn">
      ${waiting.length === 0 ? '' : `Changed in the settings, but only in force after a restart: ${waiting.join(', ')}`}
    </p>
    <p id="hour" data-live>${hourText(hour)}</p>
    <p id="yesterday" data-live class="soft">
      ${yesterday === null ? '' : `Same hour yesterday: ${hourText(yesterday)}`}
    </p>
    <p id="vitals" data-live class="soft">
      ${open} open ${open === 1 ? 'request' : 'requests'} · up ${msText(uptime * 1000)} · settings no. ${generation} ·
      all times UTC
    </p>
    <p id="acts" data-live class="soft">
      ${acts.length === 0 ? nothing : html`Done by hand: ${acts.slice(0, actsShown).map(actOf)}`}
    </p>`
}

function actOf({ at, did, from, by }: StatusReport['acts'][number], index: number): Markup {
  return html`${index === 0 ? '' : ' · '}${timeOf(at)} ${did} (${by === null ? '' : `${by}, `}${from})`
}
