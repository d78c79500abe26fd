/**
 * Pages of the admin port: markup in which everything that is put in is escaped, and the frame around it. A page brings all it
 * needs; its policy lets in our own style and script, by their hashes, and nothing else: no origin, no inline handler.
 */
import { hash } from 'node:crypto'
import { msText } from '../telemetry/trail.ts'
import type { AdminAnswer } from './admin.ts'
import { liveScript, style } from './page-assets.ts'

/** Text that is known to be safe as HTML. */
export interface Markup {
  readonly markup: string
}

type Piece = string | number | null | Markup | readonly Markup[]

/** Whatever is put into the template is escaped, for text and for quoted attributes, unless it is markup. Null is nothing. */
export function html(strings: TemplateStringsArray, ...pieces: readonly Piece[]): Markup {
  return { markup: strings.reduce((text, string, index) => text + textOf(pieces[index - 1] ?? null) + string) }
}

export const nothing: Markup = { markup: '' }

function textOf(piece: Piece): string {
  if (piece === null) return ''
  if (typeof piece === 'string') return escape(piece)
  if (typeof piece === 'number') return String(piece)
  return 'markup' in piece ? piece.markup : piece.map(({ markup }) => markup).join('')
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (letter) => entities[letter] ?? '')
}

export interface Page {
  readonly title: string
  readonly status?: number
  /** Above what is live: navigation, forms. */
  readonly head: Markup
  /** Elements with an id and `data-live` are brought up to date in place. */
  readonly main: Markup
  readonly isLive: boolean
}

const policy = [
  "default-src 'none'",
  `script-src 'sha256-${hash('sha256', liveScript, 'base64')}'`,
  `style-src 'sha256-${hash('sha256', style, 'base64')}'`,
  "connect-src 'self'",
  'img-src data:',
  "form-action 'self'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ')

// With `no-referrer`, a browser sends `Origin: null` with our own forms.
const headers = ['Content-Security-Policy', policy, 'Referrer-Policy', 'same-origin', 'Vary', 'Accept']

// The policy's hashes are those of what is between the tags, to the last space.
const styleTag: Markup = { markup: `<style>${style}</style>` }
const scriptTag: Markup = { markup: `<script>${liveScript}</script>` }
const reloadTag: Markup = { markup: '<noscript><meta http-equiv="refresh" content="15"></noscript>' }

/** Only what changes, for the script of the page. */
export function fragmentAnswer({ main, status = 200 }: Page): AdminAnswer {
  return { status, contentType: 'text/html; charset=utf-8', headers, body: main.markup }
}

export function pageAnswer({ title, status = 200, head, main, isLive }: Page): AdminAnswer {
  const live = isLive
    ? html`
        <p id="offline" class="offline" role="status" hidden>Not up to date: the proxy does not answer.</p>
        <button id="pause" type="button" aria-pressed="false" hidden>Pause updates</button>
      `
    : nothing
  const { markup } = html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>${title}</title>
        <link rel="icon" href="data:," />
        ${isLive ? reloadTag : nothing} ${styleTag}
      </head>
      <body>
        <a class="skip" href="#main">Skip to the content</a>
        <header>${head} ${live}</header>
        <main id="main" tabindex="-1">${main}</main>
        ${isLive ? scriptTag : nothing}
      </body>
    </html>`
  return { status, contentType: 'text/html; charset=utf-8', headers, body: markup }
}

/** Why nothing came of a form. */
export function problemPage(status: number, detail: string, more: readonly string[]): AdminAnswer {
  const head = html`<nav aria-label="Pages"><a href="/">← Status</a></nav>
    <h1 class="grow">Not done</h1>`
  const main = html`<section><p>${detail}</p></section>`
  const page = pageAnswer({ title: 'Not done', status, head, main, isLive: false })
  return { ...page, headers: [...headers, ...more] }
}

/** A button that does something: a form, so that it works without the script. `name` says what it does to whom. */
export function button(action: string, label: string, name: string): Markup {
  return html`<form method="post" action="${action}">
    <button type="submit" aria-label="${name}">${label}</button>
  </form>`
}

/** Where the trail of a request is; `.` and `..` mean something else in a path. */
export function trailHref(id: string): string {
  return /^\.{1,2}$/.test(id) ? `/requests?id=${id}` : `/requests/${encodeURIComponent(id)}`
}

export function timeOf(iso: string | null): Markup {
  if (iso === null) return html`–`
  return html`<time datetime="${iso}" title="${iso}">${iso.slice(11, 19)}</time>`
}

export function countOf(value: number): string {
  return value.toLocaleString('en-US')
}

/** A bar without words: what it shows is said beside it. From 0 to 1. */
export function bar(part: number, kind: 'good' | 'warn' | 'bad', from = 0): Markup {
  const start = Math.min(100, Math.max(0, from * 100))
  const width = Math.min(100 - start, Math.max(0, part * 100))
  return html`<svg class="bar ${kind}" aria-hidden="true" focusable="false">
    <rect class="track" width="100%" height="100%" rx="3" />
    <rect class="fill" x="${start.toFixed(2)}%" width="${width.toFixed(2)}%" height="100%" rx="3" />
  </svg>`
}

export function sizeOf(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB'] as const
  const power = Math.min(3, Math.floor(Math.log2(Math.max(1, bytes)) / 10))
  const amount = bytes / 1024 ** power
  return `${amount.toFixed(power === 0 || amount >= 100 ? 0 : 1)} ${units[power]}`
}

export function tag(kind: 'good' | 'warn' | 'bad', text: string): Markup {
  return html`<span class="tag ${kind}">${text}</span>`
}

/** A heading with `#` is above numbers, one with `wide:` is not for phones. `cards`: there, each row is a block of its own. */
export function table(headings: readonly string[], rows: readonly Markup[], instead: string, kind = ''): Markup {
  if (rows.length === 0) return html`<p class="soft">${instead}</p>`
  const cells = headings.map((heading) => {
    const kinds = [heading.startsWith('#') ? 'number' : '', heading.includes('wide:') ? 'wide' : ''].join(' ').trim()
    return html`<th role="columnheader" scope="col" class="${kinds}">${heading.replace(/^#?(?:wide:)?/, '')}</th>`
  })
  // Roles, because a table that is laid out otherwise is no table to some screen readers.
  return html`<table class="${kind}" role="table">
    <thead role="rowgroup">
      <tr role="row">
        ${cells}
      </tr>
    </thead>
    <tbody role="rowgroup">
      ${rows}
    </tbody>
  </table>`
}

/** From one point in time to a later one. */
export function leftOf(later: string, earlier: string): string {
  const seconds = Math.max(0, Math.round((Date.parse(later) - Date.parse(earlier)) / 1000))
  return seconds < 100 ? `${seconds} s` : msText(seconds * 1000)
}
