/** What went wrong lately and the latest requests, on the status page: each leads to a trail. */
import { msText } from '../telemetry/trail.ts'
import { countOf, html, leftOf, type Markup, nothing, table, tag, timeOf, trailHref } from './html.ts'
import { filterIn, SLOW_MS } from './request-filter.ts'
import type { StatusReport } from './status.ts'

/** A limit at work, ours or upstream's: no outage. */
const limits: ReadonlySet<string> = new Set([
  'RATE_LIMITED',
  'CONCURRENCY_LIMITED',
  'BUDGET_EXHAUSTED',
  'rateLimited',
  'queueFull',
])
const clientsNamed = 3

export function errorsOf({ errors }: StatusReport): Markup {
  const rows = errors.map(
    ({ name, kind, count, last_at: lastAt, scraper, clients, request_id: id }) =>
      html`<tr>
        <th scope="row">
          ${tag(limits.has(name) ? 'warn' : 'bad', name)}
          <span class="below soft">${kind === 'attempt' ? 'upstream' : 'refused by us'}, last ${scraper}</span>
          <span class="narrow soft">${clientsText(clients)}</span>
        </th>
        <td class="wide">${clientsText(clients)}</td>
        <td class="number">${countOf(count)}</td>
        <td class="number"><a href="${trailHref(id)}" aria-label="Trail of the last ${name}">${timeOf(lastAt)}</a></td>
      </tr>`,
  )
  return html`${table(['Failure', 'wide:Clients', '#Count', '#Last'], rows, 'None in what is remembered.')}
  ${rows.length === 0 ? nothing : html`<p><a href="/?show=failed#recent">Failed requests</a></p>`}`
}

function clientsText(clients: readonly string[]): string {
  const named = clients.slice(0, clientsNamed).join(', ')
  const rest = clients.length - clientsNamed
  return rest > 0 ? `${named} and ${rest} more` : named
}

/** Works without the script, and is kept by its updates, because they ask with the same query string. */
export function filterForm({ breakers, clients }: StatusReport, params: URLSearchParams): Markup {
  const filter = filterIn(params)
  const span = params.get('span')
  const choice = (name: keyof typeof filter, options: readonly (readonly [value: string, text: string])[]): Markup =>
    html`<select name="${name}" aria-label="${name}">
      ${options.map(([value, text]) =>
        value === (filter[name] ?? '')
          ? html`<option value="${value}" selected>${text}</option>`
          : html`<option value="${value}">${text}</option>`,
      )}
    </select>`
  const names = (all: string, known: readonly string[]) => [
    ['', all] as const,
    ...known.map((one) => [one, one] as const),
  ]
  const kinds = [
    ['all', 'all requests'],
    ['failed', 'failed (4xx, 5xx)'],
    ['slow', `slower than ${SLOW_MS / 1000} s`],
  ] as const
  const isFiltered = filter.show !== 'all' || filter.client !== null || filter.scraper !== null
  return html`<form method="get" action="/#recent">
    ${span === null ? nothing : html`<input type="hidden" name="span" value="${span}" />`} ${choice('show', kinds)}
    ${choice(
      'client',
      names(
        'all clients',
        clients.map(({ name }) => name),
      ),
    )}
    ${choice(
      'scraper',
      names(
        'all scrapers',
        breakers.map(({ scraper }) => scraper),
      ),
    )}
    <button type="submit">Show</button>
    ${isFiltered ? html`<a href="/#recent">all</a>` : nothing}
  </form>`
}

export function recentOf(recent: StatusReport['recent'], time: string): Markup {
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
  return table([...names, '#wide:Attempts', '#wide:Credits', '#Took'], rows, 'There is none in what is remembered.')
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
