/** What came back on a connection, read strictly: whole HTTP/1.1 answers, one after the other, and nothing else. */
export interface ReadAnswer {
  readonly status: number
  readonly head: string
  readonly body: string
}

/** A text instead of answers says what is wrong. Answers to HEAD say how long their bodies would be. */
export function readAnswers(text: string, isHeadAmong: boolean): readonly ReadAnswer[] | string {
  const answers: ReadAnswer[] = []
  let rest = text
  while (rest !== '') {
    const end = rest.indexOf('\r\n\r\n')
    if (end === -1) return `half an answer: ${rest.slice(0, 200)}`
    const head = rest.slice(0, end)
    const [line = '', ...headers] = head.split('\r\n')
    const status = Number(/^HTTP\/1\.1 (\d{3}) [\x20-\x7e]*$/.exec(line)?.[1] ?? 0)
    if (status < 200) return `not an answer: ${line.slice(0, 200)}`
    const odd = headers.find((header) => !/^[\w-]+: [\x20-\x7e\x80-\xff]*$/.test(header))
    if (odd !== undefined) return `not a header: ${JSON.stringify(odd.slice(0, 200))}`
    const lengths = headers.filter((header) => /^content-length:/i.test(header))
    if (lengths.length > 1 || headers.some((header) => /^transfer-encoding:/i.test(header)))
      return `two framings: ${head}`
    const isBare = isHeadAmong && /^(?:HTTP\/1\.1 |$)/.test(rest.slice(end + 4))
    const length = status === 304 || isBare ? 0 : Number(/\d+$/.exec(lengths[0] ?? '')?.[0] ?? Number.NaN)
    const body = rest.slice(end + 4, end + 4 + length)
    if (Number.isNaN(length) || body.length < length) return `an answer without its end: ${head}`
    if (!headers.some((header) => /^x-request-id: \S+$/i.test(header))) return `an answer without an id: ${head}`
    answers.push({ status, head, body })
    rest = rest.slice(end + 4 + length)
  }
  return answers
}
