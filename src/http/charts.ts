/**
 * Pictures over time as inline SVG, made on the server: stacked steps and lines on one scale, with marks, a legend, and a table
 * behind each picture for readers who do not see it. Colours are classes of the page's style, so that both schemes apply.
 */
import { html, type Markup, nothing } from './html.ts'

export interface Series {
  readonly name: string
  /** Of the page's style: `c1` to `c5`. */
  readonly colour: string
  /** One for each step; null = nothing was measured. */
  readonly values: readonly (number | null)[]
}

export interface Chart {
  readonly title: string
  /** Steps on top of each other, or lines. */
  readonly kind: 'stacked' | 'lines'
  readonly series: readonly Series[]
  /** Epoch milliseconds of the steps, in order, `stepMs` apart where none is missing. */
  readonly at: readonly number[]
  readonly from: number
  readonly to: number
  readonly stepMs: number
  readonly marks: readonly { readonly at: number; readonly text: string }[]
  readonly show: (value: number) => string
}

const WIDTH = 720
const HEIGHT = 140
/** Rows of the table behind a picture, at most: steps are put together. */
const TABLE_ROWS = 24

export function chartOf(chart: Chart): Markup {
  const { title, series, from, to, marks, show } = chart
  const top = niceTop(highest(chart))
  const x = (at: number): number => round(((at - from) / (to - from)) * WIDTH)
  const y = (value: number): number => round(HEIGHT - (value / top) * HEIGHT)
  const shapes = chart.kind === 'stacked' ? stackedOf(chart, x, y) : linesOf(chart, x, y)
  const lines = marks.map(
    ({ at, text }) =>
      html`<g class="mark"
        ><line x1="${x(at)}" y1="0" x2="${x(at)}" y2="${HEIGHT}" /><title>${clockTime(at)} ${text}</title></g
      >`,
  )
  const legend = series.map(({ name, colour }) => html`<li><span class="swatch ${colour}"></span>${name}</li>`)
  return html`<figure>
    <figcaption>${title}</figcaption>
    <svg
      class="chart"
      viewBox="0 0 ${WIDTH} ${HEIGHT}"
      preserveAspectRatio="none"
      role="img"
      aria-label="${title}, up to ${show(top)}"
    >
      <line class="axis" x1="0" y1="${HEIGHT}" x2="${WIDTH}" y2="${HEIGHT}" />
      ${shapes} ${lines}
    </svg>
    <p class="scale soft"><span>${clockTime(from)}</span><span>top: ${show(top)}</span><span>${clockTime(to)}</span></p>
    <ul class="legend">
      ${legend}
    </ul>
    ${tableOf(chart)}
  </figure>`
}

function stackedOf({ series, at, stepMs }: Chart, x: (at: number) => number, y: (value: number) => number): Markup[] {
  const floor = at.map(() => 0)
  return series.map(({ values, colour }) => {
    const path = at
      .map((time, index) => {
        const value = values[index] ?? 0
        if (value === 0) return ''
        const bottom = floor[index] ?? 0
        floor[index] = bottom + value
        return `M${x(time)} ${y(bottom)}V${y(bottom + value)}H${x(time + stepMs)}V${y(bottom)}Z`
      })
      .join('')
    return path === '' ? nothing : html`<path class="area ${colour}" d="${path}" />`
  })
}

/** A line ends where nothing was measured. */
function linesOf({ series, at, stepMs }: Chart, x: (at: number) => number, y: (value: number) => number): Markup[] {
  return series.map(({ values, colour }) => {
    let isDown = false
    const path = at
      .map((time, index) => {
        const value = values[index] ?? null
        const isNext = isDown && time - (at[index - 1] ?? 0) <= 1.5 * stepMs
        isDown = value !== null
        if (value === null) return ''
        return `${isNext ? 'L' : 'M'}${x(time)} ${y(value)}H${x(time + stepMs)}`
      })
      .join('')
    return path === '' ? nothing : html`<path class="line ${colour}" d="${path}" />`
  })
}

function tableOf({ title, series, at, kind, marks, show }: Chart): Markup {
  const size = Math.max(1, Math.ceil(at.length / TABLE_ROWS))
  const rows = at.flatMap((time, index) => {
    if (index % size !== 0) return []
    const cells = series.map(({ values }) => {
      const measured = values.slice(index, index + size).filter((value) => value !== null)
      const sum = measured.reduce((all, value) => all + value, 0)
      const value = kind === 'stacked' ? sum : Math.max(...measured)
      return html`<td class="number">${measured.length === 0 ? '–' : show(value)}</td>`
    })
    return [
      html`<tr>
        <th scope="row">${clockTime(time)}</th>
        ${cells}
      </tr>`,
    ]
  })
  const names = series.map(({ name }) => html`<th scope="col" class="number">${name}</th>`)
  const events = marks.map(({ at, text }) => html`<li>${clockTime(at)} ${text}</li>`)
  return html`<details>
    <summary>${title} as a table</summary>
    ${
      events.length > 0
        ? html`<ul>
            ${events}
          </ul>`
        : nothing
    }
    <table>
      <thead>
        <tr>
          <th scope="col">From</th>
          ${names}
        </tr>
      </thead>
      <tbody>
        ${rows}
      </tbody>
    </table>
  </details>`
}

function highest({ series, kind, at }: Chart): number {
  const perStep = at.map((_time, index) => {
    const values = series.map(({ values }) => values[index] ?? 0)
    return kind === 'stacked' ? values.reduce((sum, value) => sum + value, 0) : Math.max(0, ...values)
  })
  return Math.max(0, ...perStep)
}

/** 1, 2 or 5 times a power of ten. */
function niceTop(value: number): number {
  if (value <= 0) return 1
  const power = 10 ** Math.floor(Math.log10(value))
  return ([1, 2, 5, 10].find((step) => step * power >= value) ?? 10) * power
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}

function clockTime(at: number): string {
  return new Date(at).toISOString().slice(11, 16)
}
