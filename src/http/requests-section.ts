/** What went wrong lately and the latest requests, on the status page: each leads to a trail. */
import { msText } from '../telemetry/trail.ts'
import { countOf, html, leftOf, type Markup, nothing, table, tag, timeOf, trailHref } from './html.ts'
import type { StatusReport } from './status.ts'

export function errorsOf({ errors }: StatusReport): Markup {
  const rows = errors.map(
    ({ name, kind, count, last_at: lastAt, scraper, request_id: id }) =>
      html`<tr>
        <th scope="row">
          ${name} <span class="below soft">${kind === 'attempt' ? 'upstream' : 'refused by us'}, last ${scraper}</span>
        </th>
        <td class="number">${countOf(count)}</td>
        <td class="number"><a href="${trailHref(id)}" aria-label="Trail of the last ${name}">${timeOf(lastAt)}</a></td>
      </tr>`,
  )
  return table(['Failure', '#Count', '#Last'], rows, 'None in what is remembered.')
}

export function recentOf({ recent, time }: StatusReport): Markup {
  const rows = recent.map(
    ({ id, at, client, scraper, cache, status, code, attempts, credits, duration_ms: duration }) =>
      html`<tr>
        <td class="wide">${duration === null ? '–' : timeOf(after(at, duration))}</td>
        <th scope="row">
          <a class="id" href="${trailHref(id)}" title="${id}">${id}</a
          ><span class="narrow soft">${client} · ${scraper}</span>
        </th>
        <td class="wide">${client}</td>
        <td class="wide">${scraper}</td>
        <td class="wide">${cache}</td>
        <td>${statusTag(status, code)}</td>
        <td class="number wide">${attempts}</td>
        <td class="number wide">${credits}</td>
        <td class="number">${duration === null ? leftOf(time, at ?? time) : msText(duration)}</td>
      </tr>`,
  )
  const names = ['wide:Ended', 'Request', 'wide:Client', 'wide:Scraper', 'wide:Cache', 'Status']
  return table([...names, '#wide:Attempts', '#wide:Credits', '#Took'], rows, 'No request has come yet.')
}

function after(at: string | null, ms: number): string | null {
  return at === null ? null : new Date(Date.parse(at) + ms).toISOString()
}

/** The status of an answer, with a word where it is not a success. */
export function statusTag(status: number | 'gone' | null, code: string | null): Markup {
  if (status === null) return tag('warn', 'under way')
  if (status === 'gone') return tag('warn', 'hung up')
  const kind = status < 400 ? 'good' : status < 500 ? 'warn' : 'bad'
  return html`${tag(kind, String(status))}${code === null ? nothing : html` <span class="wide">${code}</span>`}`
}
