/** `GET /` of the admin port: what `/status` says, for people. Keeps itself up to date; every request leads to its trail. */
import type { History } from '../telemetry/history.ts'
import type { Trails } from '../telemetry/trail.ts'
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
} from './html.ts'
import { healthSection } from './health-section.ts'
import { picturesOf } from './pictures.ts'
import { filterIn, passes } from './request-filter.ts'
import { errorsOf, filterForm, recentOf } from './requests-section.ts'
import { standingOf } from './standing-section.ts'
import { type BudgetReport, recentReport, type StatusReport, type TokenReport } from './status.ts'

interface PageParts {
  readonly status: () => StatusReport
  readonly history: Pick<History, 'steps' | 'marks'>
  readonly trails: Pick<Trails, 'recent'>
}

const recentCount = 25

export function createStatusPage({ status, history, trails }: PageParts): AdminRoute {
  return {
    method: 'GET',
    path: '/',
    run({ params }) {
      const report = status()
      const now = Date.parse(report.time)
      const filter = filterIn(params)
      const recent = trails.recent(recentCount, passes(filter, now)).map(recentReport)
      const page = {
        title: `${report.health.state}: scrapellm-proxy`,
        head: headOf(report),
        main: mainOf(
          report,
          picturesOf(history, params, now),
          recentOf(recent, report.time),
          filterForm(report, params),
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

function mainOf(report: StatusReport, pictures: Markup, recent: Markup, filter: Markup): Markup {
  return html`
    ${healthSection(report)}
    <div class="grid wide-columns">
      ${part('standing', 'Circuits and keys', standingOf(report))} ${part('errors', 'Trouble lately', errorsOf(report))}
      ${part('pictures', 'Over time', pictures, { kind: 'all' })}
    </div>
    <div class="grid">
      ${part('flights', 'Flights under way', flightsOf(report))} ${part('places', 'Places for calls', placesOf(report))}
      ${part('cache', 'Cache', cacheOf(report), { below: purgeForm(report) })}
      ${part('credits', 'Credits', creditsOf(report), { kind: 'all' })}
      ${part('recent', 'Latest requests', recent, { kind: 'all clip', above: filter })}
    </div>
  `
}

interface Around {
  readonly kind?: string
  /** These stay as they are while the rest is brought up to date: what somebody is writing there is not lost. */
  readonly above?: Markup
  readonly below?: Markup
}

function part(
  id: string,
  title: string,
  content: Markup,
  { kind = '', above = nothing, below = nothing }: Around = {},
): Markup {
  return html`<section class="${kind}" aria-labelledby="${id}-title">
    <h2 id="${id}-title">${title}</h2>
    ${above}
    <div id="${id}" data-live>${content}</div>
    ${below}
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
