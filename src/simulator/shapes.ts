// Complete, paid answers in shapes that the vendor does not document: what a new scraper, a renamed member or a new version of the API might
// send. The steps `shape-*` play them on every route; on a poll they change the job's document.

type Body = Readonly<Record<string, unknown>>

const EMPTIED = ['result', 'result_markdown']
export interface ShapedReply {
  readonly status: number
  readonly contentType: string | null
  readonly body: string
}

const JSON_TYPE = 'application/json'
const NO_BREAK_SPACE = '\u00a0'
const ZERO_WIDTH_SPACE = '\u200b'
const BYTE_ORDER_MARK = '\ufeff'

export const shapes = {
  'shape-blocks': (_status, body) =>
    json(200, { ...body, result: [{ type: 'text', text: textOf(body) }] }, 'result_markdown'),
  'shape-object': (_status, body) => json(200, { ...body, result: { text: textOf(body) } }, 'result_markdown'),
  'shape-completed': (_status, body) => json(200, { ...body, status: 'completed' }),
  'shape-no-status': (_status, body) => json(200, body, 'status'),
  'shape-renamed': (_status, { result, ...body }) => json(200, { ...body, answer: result }, 'result_markdown'),
  'shape-empty-text': (_status, body) =>
    json(200, { ...emptied(body), search_results: [{ title: 'A page', url: 'https://example.com/' }] }),
  'shape-no-products': (_status, body) => json(200, { ...body, products: [] }, 'result', 'result_markdown'),
  'shape-blank': (_status, body) =>
    json(200, {
      ...emptied(body),
      result: ` \n${NO_BREAK_SPACE}${ZERO_WIDTH_SPACE}`,
      result_markdown: ZERO_WIDTH_SPACE,
    }),
  'shape-other-prompt': (_status, body) => json(200, { ...body, prompt: 'Something else entirely' }),
  'shape-other-scraper': (_status, body) => json(200, { ...body, scraper: 'another_scraper' }),
  'shape-array': (_status, body) => json(200, [body]),
  'shape-text': (_status, body) => json(200, textOf(body)),
  'shape-201': (_status, body) => json(201, body),
  'shape-202-job': (_status, body) => json(202, { job_id: body['job_id'] }),
  'shape-203': (_status, body) => json(203, body),
  'shape-206': (_status, body) => json(206, body),
  'shape-bom': (status, body) => ({ ...json(status, body), body: BYTE_ORDER_MARK + JSON.stringify(body) }),
  'shape-no-type': (status, body) => ({ ...json(status, body), contentType: null }),
  'shape-dear': (status, body) => json(status, { ...body, credits_used: Number.MAX_SAFE_INTEGER }),
} as const satisfies Readonly<Record<string, (status: number, body: Body) => ShapedReply>>

export type ShapeKind = keyof typeof shapes

export const shapeKinds = Object.keys(shapes) as readonly ShapeKind[]

export function isShape(kind: string): kind is ShapeKind {
  return Object.hasOwn(shapes, kind)
}

/** The same answer with nothing in it: texts empty, lists empty. */
export function emptied(body: Body): Body {
  const entries = Object.entries(body)
  return Object.fromEntries(
    entries.map(([name, value]) => {
      if (EMPTIED.includes(name)) return [name, '']
      return [name, Array.isArray(value) ? [] : value]
    }),
  )
}

function textOf({ result }: Body): string {
  return typeof result === 'string' ? result : 'A text'
}

function json(status: number, value: unknown, ...without: readonly string[]): ShapedReply {
  const body = JSON.stringify(value, (name, member: unknown) => (without.includes(name) ? undefined : member))
  return { status, contentType: JSON_TYPE, body }
}
