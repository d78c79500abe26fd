/**
 * The page of settings, in Markdown: each with what it takes, its limits, its default and whether a reload takes it over, by
 * section, with the section of the commented example below it. Pure.
 */
import * as z from 'zod'
import { cell, peel, settingsRows, type Row } from './describe.ts'
import { fieldMetadata } from './field.ts'
import { schema } from './schema.ts'

/** `example` is the text of config/example.yaml. */
export function settingsPage(example: string): string {
  const rows = settingsRows()
  const samples = samplesIn(example)
  return Object.entries(schema.shape)
    .map(([name, type]) => section(name, type, rows, samples.get(name)))
    .join('\n\n')
}

function section(name: string, type: z.core.$ZodType, rows: readonly Row[], sample: string | undefined): string {
  const own = rows.filter((row) => row.name === name || row.name.startsWith(`${name}.`))
  return [
    `## \`${name}\``,
    '',
    z.globalRegistry.get(type)?.description ?? '',
    '',
    '| setting | takes | default | reload | meaning |',
    '|---|---|---|---|---|',
    ...own.map(
      (row) => `| \`${row.name}\` | ${takes(row.type)} | ${row.fallback} | ${row.reload} | ${cell(row.meaning)} |`,
    ),
    ...(sample === undefined ? [] : ['', '```yaml', sample.trimEnd(), '```']),
  ].join('\n')
}

/** In words: what may stand there, with its limits. */
function takes(type: z.core.$ZodType): string {
  const { type: bare, kind } = peel(type)
  const limits = limitsOf(type)
  if (kind === 'duration') return `a duration${limits}`
  if (kind === 'size') return `a size${limits}`
  if (bare instanceof z.ZodUnion) return bare.options.map(takes).join(', or ')
  if (bare instanceof z.ZodArray) return `a list: ${takes(bare.element)}`
  if (kind === 'secret') return 'a secret: text, `${NAME}` or `file:/path`'
  if (kind === 'digest') return '64 hexadecimal digits'
  if (kind === 'access') return 'a URL'
  if (bare instanceof z.ZodEnum) return bare.options.map((option) => `\`${option}\``).join(' or ')
  if (bare instanceof z.ZodLiteral) return [...bare.values].map((value) => `\`${String(value)}\``).join(' or ')
  if (bare instanceof z.ZodBoolean) return '`true` or `false`'
  if (bare instanceof z.ZodNumber) return numberOf(bare)
  if (bare instanceof z.ZodRecord) return 'a map of names'
  return bare instanceof z.ZodObject ? 'a map' : 'text'
}

function numberOf(type: z.ZodNumber): string {
  const { minimum, maximum, exclusiveMinimum, type: kind } = z.toJSONSchema(type, { io: 'input' })
  const least = exclusiveMinimum === undefined ? `from ${minimum ?? 0}` : `above ${exclusiveMinimum}`
  return `a ${kind === 'integer' ? 'whole ' : ''}number ${least} to ${maximum ?? 'any'}`
}

/** Those of the type itself, or of what it wraps. */
function limitsOf(type: z.core.$ZodType): string {
  const limits = fieldMetadata.get(type)?.limits
  if (limits !== undefined) return ` from ${limits[0]} to ${limits[1]}`
  const inner = type instanceof z.ZodOptional || type instanceof z.ZodPrefault ? type.def.innerType : null
  return inner === null ? '' : limitsOf(inner)
}

/** The sections of the example, by name. One that is commented out is shown as it would be; what excludes another stays a comment. */
function samplesIn(example: string): ReadonlyMap<string, string> {
  const pieces = example.split(/^\n/m).map((piece) => (/^# \w+:/.test(piece) ? uncommented(piece) : piece))
  return new Map(
    pieces.flatMap((piece) => (/^(\w+):/.exec(piece)?.[1] ? [[piece.slice(0, piece.indexOf(':')), piece]] : [])),
  )
}

function uncommented(piece: string): string {
  return piece
    .split('\n')
    .map((line) => line.replace(/^# /, ''))
    .map((line) => line.replace(/^ {2}(?=sentinel:|cluster:|ca:)/, '  # '))
    .join('\n')
}
