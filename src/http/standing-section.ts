/** Circuits and keys on the status page: what is wrong, with what can be done about it; what is well is one line. */
import { button, html, leftOf, type Markup, nothing, table, tag, timeOf } from './html.ts'
import type { StatusReport } from './status.ts'

export function standingOf(report: StatusReport): Markup {
  const circuits = circuitRows(report)
  const keys = keyRows(report)
  const well = [
    countText(report.breakers.length - circuits.length, 'circuit', 'closed'),
    countText(report.keys.length - keys.length, 'key', 'ready'),
  ].filter((text) => text !== null)
  return html`${circuits.length > 0 ? table(['Scraper', 'Circuit', 'Next trial', '#Held'], circuits, '') : nothing}
  ${keys.length > 0 ? table(['Key', 'State', 'Why', 'Returns'], keys, '') : nothing}
  ${well.length > 0 ? html`<p>${tag('good', well.join(', '))}</p>` : nothing}`
}

function countText(count: number, name: string, state: string): string | null {
  return count === 0 ? null : `${count} ${name}${count === 1 ? '' : 's'} ${state}`
}

const breakerKinds = { closed: 'good', 'half-open': 'warn', open: 'bad' } as const

function circuitRows({ breakers, time }: StatusReport): Markup[] {
  return breakers
    .filter(({ state, held }) => state !== 'closed' || held > 0)
    .map(
      ({ scraper, state, open_until: until, held }) =>
        html`<tr>
          <th scope="row">${scraper}</th>
          <td>${tag(breakerKinds[state], state)}</td>
          <td>
            ${until === null ? (state === 'open' ? 'with the next request' : '') : `in ${leftOf(until, time)}`}
            ${
              state === 'closed'
                ? nothing
                : button(`/circuits/${encodeURIComponent(scraper)}/close`, 'Close', `Close the circuit of ${scraper}`)
            }
          </td>
          <td class="number">${held}</td>
        </tr>`,
    )
}

const keyKinds = { ready: 'good', resting: 'warn', spent: 'bad' } as const

function keyRows({ keys, time }: StatusReport): Markup[] {
  return keys
    .filter(({ state }) => state !== 'ready')
    .map(
      (key) =>
        html`<tr>
          <th scope="row">${key.name}</th>
          <td>${tag(keyKinds[key.state], key.state)}</td>
          <td>${key.says}. ${withCode(key.remedy ?? '')}</td>
          <td>
            ${returnOf(key, time)}
            ${button(`/keys/${encodeURIComponent(key.name)}/try`, 'Try', `Try key ${key.name} now`)}
          </td>
        </tr>`,
    )
}

function returnOf({ until, next_try: nextTry }: StatusReport['keys'][number], time: string): Markup | string {
  if (nextTry === null) return 'the next request tries it'
  const tried = until === nextTry ? '' : `, tried in ${leftOf(nextTry, time)}`
  return until === null ? tried.slice(2) : html`${timeOf(until)}, in ${leftOf(until, time)}${tried}`
}

/** What stands between backticks is a command. */
function withCode(text: string): Markup {
  const [before = '', code, after = ''] = text.split('`')
  return code === undefined ? html`${before}` : html`${before}<code>${code}</code>${after}`
}
