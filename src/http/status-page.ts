/** `GET /` of the admin port: what `/status` says, for people. Keeps itself up to date; every request leads to its trail. */
import type { History } from '../telemetry/history.ts'
import type { AdminRoute } from './admin.ts'
import {
  bar,
  button,
  countOf,
  fragmentAnswer,
  html,
  leftOf,
  type Markup,
  nothing,
  pageAnswer,
  sizeOf,
  table,
  tag,
  timeOf,
} from './html.ts'
import { healthSection } from './health-section.ts'
import { errorsOf, recentOf } from './requests-section.ts'
import { picturesOf } from './pictures.ts'
import type { BudgetReport, StatusReport, TokenReport } from './status.ts'

export function createStatusPage(status: () => StatusReport, history: Pick<History, 'steps' | 'marks'>): AdminRoute {
  return {
    method: 'GET',
    path: '/',
    run({ params }) {
      const report = status()
      const page = {
        title: `${report.health.state}: scrapellm-proxy`,
        head: headOf(report),
        main: mainOf(
          report,
          picturesOf(history, params.get('span') === 'day' ? 'day' : 'hour', Date.parse(report.time)),
        ),
        isLive: true,
      }
      return params.has('fragment') ? fragmentAnswer(page) : pageAnswer(page)
    },
  }
}

function headOf({ version }: StatusReport): Markup {
  return html`
    <h1>scrapellm-proxy <small class="soft">${version}</small></h1>
    ${trailForm()} ${button('/reload', 'Reload settings', 'Reload the settings')}
    <nav class="grow" aria-label="Pages"><a href="/metrics">Metrics</a> · <a href="/status">Status as JSON</a></nav>
  `
}

/** Leads from the `X-Request-Id` of an answer to its trail. */
export function trailForm(): Markup {
  return html`<form action="/requests" method="get" role="search">
    <label for="id">X-Request-Id</label>
    <input id="id" name="id" autocomplete="off" spellcheck="false" maxlength="128" required />
    <button type="submit">Show its trail</button>
  </form>`
}

function mainOf(report: StatusReport, pictures: Markup): Markup {
  return html`
    ${healthSection(report)}
    <div class="grid">
      ${part('pictures', 'Over time', pictures, 'all')} ${part('circuits', 'Circuits', circuitsOf(report))}
      <div class="stack">
        ${part('keys', 'Upstream keys', keysOf(report))} ${part('flights', 'Flights under way', flightsOf(report))}
        ${part('places', 'Places for calls', placesOf(report))}
        ${part('cache', 'Cache', cacheOf(report), '', purgeForm(report))}
      </div>
      ${part('errors', 'Trouble lately', errorsOf(report))} ${part('credits', 'Credits', creditsOf(report), 'all')}
      ${part('recent', 'Latest requests', recentOf(report), 'all clip')}
    </div>
  `
}

/** `still` stays as it is while the rest is brought up to date: what somebody is writing there is not lost. */
function part(id: string, title: string, content: Markup, kind = '', still = nothing): Markup {
  return html`<section class="${kind}" aria-labelledby="${id}-title">
    <h2 id="${id}-title">${title}</h2>
    <div id="${id}" data-live>${content}</div>
    ${still}
  </section>`
}

/** Behind a fold: what is purged has to be paid for again. */
function purgeForm({ breakers }: StatusReport): Markup {
  return html`<details>
    <summary>Purge answers</summary>
    <form method="post" action="/cache/purge">
      <label for="purge-scraper">Of</label>
      <select id="purge-scraper" name="scraper" required>
        <option value="">choose …</option>
        <option value="all">all scrapers</option>
        ${breakers.map(({ scraper }) => html`<option value="${scraper}">${scraper}</option>`)}
      </select>
      <label for="purge-age">older than</label>
      <input id="purge-age" name="olderThan" placeholder="such as 2h; empty = all" autocomplete="off" />
      <button type="submit">Purge</button>
    </form>
  </details>`
}

const breakerKinds = { closed: 'good', 'half-open': 'warn', open: 'bad' } as const

function circuitsOf({ breakers, time }: StatusReport): Markup {
  const rows = breakers
    .filter(({ state, held }) => state !== 'closed' || held > 0)
    .map(
      ({ scraper, state, open_until: until, held }) =>
        html`<tr>
          <th scope="row">${scraper}</th>
          <td>${tag(breakerKinds[state], state)}</td>
          <td>
            ${until === null ? '' : `in ${leftOf(until, time)}`}
            ${
              state === 'closed'
                ? nothing
                : button(`/circuits/${encodeURIComponent(scraper)}/close`, 'Close', `Close the circuit of ${scraper}`)
            }
          </td>
          <td class="number">${held}</td>
        </tr>`,
    )
  const closed = breakers.length - rows.length
  return html`${rows.length > 0 ? table(['Scraper', 'Circuit', 'Next trial', '#Held'], rows, '') : nothing}
  ${foldOf(closed, 'circuit', 'closed')}`
}

/** What is well, in one line. */
function foldOf(count: number, name: string, state: string): Markup {
  return count === 0 ? nothing : html`<p>${tag('good', `${count} ${name}${count === 1 ? '' : 's'} ${state}`)}</p>`
}

const keyKinds = { ready: 'good', resting: 'warn', spent: 'bad' } as const

function keysOf({ keys, time }: StatusReport): Markup {
  const rows = keys
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
  const ready = keys.length - rows.length
  return html`${rows.length > 0 ? table(['Key', 'State', 'Why', 'Returns'], rows, '') : nothing}
  ${foldOf(ready, 'key', 'ready')}`
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

const flightsShown = 12

function flightsOf({ flights, time }: StatusReport): Markup {
  const oldest = flights.toSorted((a, b) => ((a.started_at ?? '') < (b.started_at ?? '') ? -1 : 1))
  const rows = oldest.slice(0, flightsShown).map(
    ({ scraper, askers, started_at: startedAt }) =>
      html`<tr>
        <th scope="row">${scraper}</th>
        <td class="number">${startedAt === null ? '' : leftOf(time, startedAt)}</td>
        <td class="number">${askers}</td>
      </tr>`,
  )
  const rest = flights.length - rows.length
  return html`${table(['Scraper', '#Age', '#Waiting'], rows, 'None: upstream is not being asked.')}
  ${rest > 0 ? html`<p class="soft">and ${rest} younger ones</p>` : nothing}`
}

const clientsShown = 100

/** All clients as the settings have them, or those who spend most. */
function creditsOf({ clients, budgets, account, credits, time }: StatusReport): Markup {
  const byName = new Map(budgets.map((one) => [`${one.period} ${one.client}`, one]))
  const budget = (client: string, period: BudgetReport['period']) => byName.get(`${period} ${client}`) ?? null
  const spendthrifts = clients.toSorted((a, b) => b.credits_this_month - a.credits_this_month)
  const rows = (clients.length > clientsShown ? spendthrifts.slice(0, clientsShown) : clients).map(
    ({ name, open_questions: open, credits_today: today, credits_this_month: month, tokens }) =>
      html`<tr role="row">
        <th role="rowheader" scope="row">${name}</th>
        <td role="cell" data-name="Today"><div>${spentOf(today, budget(name, 'day'))}</div></td>
        <td role="cell" data-name="This month"><div>${spentOf(month, budget(name, 'month'))}</div></td>
        <td role="cell" data-name="Open" class="number"><div>${open}</div></td>
        <td role="cell" data-name="Tokens"><div>${tokens.map((token) => tokenLine(token, time))}</div></td>
      </tr>`,
  )
  const rest = clients.length - rows.length
  const { spent, saved, wasted, uncertain } = credits.total
  const spared = saved.hit + saved.joined + saved.stale + saved.rescued
  return html`<p>
      Since the start <strong>${countOf(spent)} spent</strong>, <strong>${countOf(spared)} saved</strong> (hits
      ${countOf(saved.hit)}, joined ${countOf(saved.joined)}, stale ${countOf(saved.stale)}, rescued
      ${countOf(saved.rescued)}), ${countOf(wasted)} wasted, ${countOf(uncertain)} uncertain.
    </p>
    ${account.length > 0 ? html`<p>All clients together: ${account.map(wholeOf)}</p>` : nothing}
    ${table(['Client', 'Today', 'This month', '#Open questions', 'Tokens'], rows, 'There are no clients.', 'cards')}
    ${rest > 0 ? html`<p class="soft">and ${rest} who have spent less this month</p>` : nothing}`
}

function wholeOf({ period, limit, spent, held, left }: StatusReport['account'][number]): Markup {
  const used = (limit - left) / Math.max(1, limit)
  const kind = used >= 1 ? 'bad' : used >= 0.8 ? 'warn' : 'good'
  return html`${countOf(spent)} of ${countOf(limit)} this ${period}${held > 0 ? `, ${countOf(held)} held` : ''}
  ${bar(used, kind)} `
}

/** So that an old token can be removed. */
function tokenLine({ token, last_used_at: usedAt, expires_at: expiresAt }: TokenReport, now: string): Markup {
  const used = usedAt === null ? 'not used' : `used ${leftOf(now, usedAt)} ago`
  const expiry = expiresAt === null ? '' : `, ${expiresAt <= now ? 'expired' : 'expires'} ${expiresAt.slice(0, 10)}`
  return html`<span class="soft">${token}: ${used}${expiry}</span> `
}

function spentOf(spent: number, budget: BudgetReport | null): Markup {
  if (!budget) return html`${countOf(spent)} <span class="soft">no limit</span>`
  const used = (budget.limit - budget.left) / Math.max(1, budget.limit)
  const held = budget.held > 0 ? `, ${countOf(budget.held)} held` : ''
  return html`${countOf(budget.spent)} <span class="soft">of ${countOf(budget.limit)}${held}</span> ${bar(
      used,
      used >= 1 ? 'bad' : used >= 0.8 ? 'warn' : 'good',
    )}`
}

/** Of scrapers that are asked, or whose limit upstream has lowered. */
function placesOf({ places }: StatusReport): Markup {
  const widest = Math.max(...places.map(({ limit }) => limit))
  const rows = places
    .filter(({ under_way: underWay, waiting, limit }) => underWay + waiting > 0 || limit < widest)
    .map(
      ({ scraper, under_way: underWay, limit, waiting }) =>
        html`<tr>
          <th scope="row">${scraper}</th>
          <td class="number">${countOf(underWay)} <span class="soft">of ${countOf(limit)}</span></td>
          <td class="number">${waiting > 0 ? tag('warn', countOf(waiting)) : '0'}</td>
        </tr>`,
    )
  return table(['Scraper', '#Under way', '#Waiting'], rows, 'No call is under way.')
}

function cacheOf({ cache, disk, records, redis, audit_file: audit }: StatusReport): Markup {
  const rows = cache.map(
    ({ tier, entries, bytes, max_bytes: maxBytes }) =>
      html`<tr>
        <th scope="row">${tier}</th>
        <td class="number">${countOf(entries)}</td>
        <td class="number">${sizeOf(bytes)} <span class="soft">of ${sizeOf(maxBytes)}</span></td>
      </tr>`,
  )
  const stores = [
    ['Disk', disk],
    ['Records', records],
    ['Redis', redis],
    ['Audit file', audit],
  ] as const
  const states = stores.flatMap(([name, state]) =>
    state === null ? [] : [html`<li>${name}: ${tag(state === 'up' ? 'good' : 'bad', state)}</li>`],
  )
  return html`${table(['Tier', '#Answers', '#Size'], rows, 'There is no cache.')}
  ${
    states.length > 0
      ? html`<ul>
          ${states}
        </ul>`
      : nothing
  }`
}
