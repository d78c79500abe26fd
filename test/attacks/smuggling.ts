/**
 * A6: requests that hide where they end. The families are those of the field's smuggling scanners: a framing header with
 * something before, within or behind its name, its colon or its value, spelled otherwise, given twice or folded; beside the
 * plain one of the other kind, or alone. What is smuggled is a whole paid question.
 */
import { get, TARGET } from '../support/siege.ts'

export interface Mutation {
  readonly name: string
  readonly bytes: Buffer
}

const SMUGGLED = get(`${TARGET}?prompt=smuggled`)

/** `#` is one character that does not belong there. */
const places: readonly string[] = [
  '#NAME: VALUE',
  'NAME#: VALUE',
  'NAME:#VALUE',
  'NAME: #VALUE',
  'NAME: VALUE#',
  'NA#ME: VALUE',
  'X: y\r\n#NAME: VALUE',
  'X: y#\r\nNAME: VALUE',
  'X: y#NAME: VALUE',
  'NAME: "VALUE#"',
]

const spellings: readonly string[] = [
  ' NAME: VALUE',
  '\tNAME: VALUE',
  'NAME : VALUE',
  'NAME\t: VALUE',
  'NAME:\tVALUE',
  'NAME:VALUE',
  'NAME:  VALUE',
  'NAME: VALUE ',
  'NAME: VALUE\t',
  'name: VALUE',
  'NAME: value',
  'nAmE: vAlUe',
  'NAME: "VALUE"',
  "NAME: 'VALUE'",
  'NAME: VALUE, VALUE',
  'NAME: VALUE, identity',
  'NAME: identity, VALUE',
  'NAME: ,VALUE',
  'NAME: VALUE,',
  'NAME: x, VALUE',
  'NAME: VALUE;q=1',
  'NAME: xVALUE',
  'NAME: VALUEx',
  'NAME:\r\n VALUE',
  'NAME:\r\n\tVALUE',
  'NAME\r\n : VALUE',
  'NAME: x\r\n VALUE',
  'NAME: VALUE\r\nNAME: identity',
  'NAME: identity\r\nNAME: VALUE',
  'NAME: VALUE\r\nNAME: VALUE',
  'NAME: VALUE\nX: y',
  'NAME: VALUE\rX: y',
  'X: y\nNAME: VALUE',
  'X: y\rNAME: VALUE',
  '\r\nNAME: VALUE',
  'NAME: VALUE\r\n\rX: y',
  'NAME',
  'NAME=VALUE',
  'NAME; VALUE',
  'NAME: ',
  'NAME: VALUE\0',
]

const names: Readonly<Record<'coding' | 'length', readonly string[]>> = {
  coding: ['Transfer-Encoding', 'Transfer_Encoding', 'Transfer.Encoding', "Transfer-Encoding'", 'TransferEncoding'],
  length: ['Content-Length', 'Content_Length', 'Content.Length', 'Content-Length!', 'ContentLength'],
}

function lines(kind: 'coding' | 'length', value: string): string[] {
  const [plain = '', ...others] = names[kind]
  const spelled = (form: string, name: string): string => form.replaceAll('NAME', name).replaceAll('VALUE', value)
  const withBytes = places.flatMap((place) =>
    Array.from({ length: 256 }, (_, code) =>
      place
        .replaceAll('NA#ME', `${plain.slice(0, 7)}#${plain.slice(7)}`)
        .replaceAll('NAME', plain)
        .replaceAll('VALUE', value)
        .replaceAll('#', String.fromCharCode(code)),
    ),
  )
  return [
    ...withBytes,
    ...spellings.map((form) => spelled(form, plain)),
    ...others.map((name) => spelled('NAME: VALUE', name)),
  ]
}

/** Some 5 000. All of them announce a body in a way that somebody may understand, so not one may be let through. */
export function* mutations(): Generator<Mutation> {
  const chunks = `0\r\n\r\n${SMUGGLED}`
  for (const coding of lines('coding', 'chunked')) {
    // Whoever sees the length skips the smuggled request, whoever sees the coding executes it.
    yield mutation('CL.TE', [`Content-Length: ${chunks.length}`, coding], chunks)
  }
  const size = `${SMUGGLED.length.toString(16)}\r\n`
  for (const length of lines('length', String(size.length))) {
    yield mutation('TE.CL', ['Transfer-Encoding: chunked', length], `${size}${SMUGGLED}\r\n0\r\n\r\n`)
  }
}

function mutation(kind: string, headers: readonly string[], body: string): Mutation {
  const head = [`POST ${TARGET}/jobs HTTP/1.1`, 'Host: a', ...headers].join('\r\n')
  return { name: `${kind} ${headers.join(' | ')}`, bytes: Buffer.from(`${head}\r\n\r\n${body}`, 'latin1') }
}
