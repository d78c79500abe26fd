/**
 * What the schema says, for others to use: about the field at a path, as JSON Schema, as the settings table of the
 * README, and about a running configuration, as it may be printed. Pure: writing files is up to the caller.
 */
import * as z from 'zod'
import { fieldMetadata } from './field.ts'
import { resolveRetry } from './policy.ts'
import { schema, type Config } from './schema.ts'
import type { Path } from './tree.ts'
import { formatDuration, formatSize } from './units.ts'

export interface Field {
  readonly kind: 'duration' | 'size' | 'secret' | 'digest' | 'access' | 'webhook' | null
  /** `text` only takes text; `other` takes numbers or booleans, too. */
  readonly takes: 'text' | 'other'
  /** Names of a map with fixed names; null for any other. */
  readonly names: readonly string[] | null
  /** A map whose names are free. */
  readonly isRecord: boolean
}

/** A type with its wrappers taken off, and what they said. */
interface Peeled {
  readonly type: z.core.$ZodType
  readonly kind: Field['kind']
  readonly fallback: unknown
}

/** Null when the schema knows nothing at that path. */
export function fieldAt(path: Path): Field | null {
  const possible = typesAt(schema, path)
  const [first] = possible
  if (first === undefined) return null
  const isText = ({ type }: Peeled) => type instanceof z.ZodString || type instanceof z.ZodEnum
  return {
    kind: possible.find((one) => one.kind !== null)?.kind ?? null,
    takes:
      possible.every((one) => isText(one) || one.type instanceof z.ZodArray) && possible.some(isText)
        ? 'text'
        : 'other',
    names: first.type instanceof z.ZodObject ? Object.keys(first.type.shape) : null,
    isRecord: first.type instanceof z.ZodRecord,
  }
}

/** The setting at this path, or the nearest one above it that says so, is read once, at start. */
export function needsRestart(path: Path): boolean {
  return reloadClassOf(schema, path) === 'restart'
}

function reloadClassOf(type: z.core.$ZodType, path: Path): unknown {
  const own = z.globalRegistry.get(type)?.['reload']
  const [step, ...rest] = path
  if (step === undefined) return own
  const { type: bare } = peel(type)
  const options = bare instanceof z.ZodUnion ? bare.options.map((option) => peel(option).type) : [bare]
  const child = options.map((option) => childOf(option, step)).find((one) => one !== null)
  return (child && reloadClassOf(child, rest)) ?? own
}

/** All types a value at this path may have. */
function typesAt(type: z.core.$ZodType, path: Path): Peeled[] {
  const peeled = peel(type)
  if (peeled.type instanceof z.ZodUnion) return peeled.type.options.flatMap((option) => typesAt(option, path))
  const [step, ...rest] = path
  if (step === undefined) return [peeled]
  const child = childOf(peeled.type, step)
  return child === null ? [] : typesAt(child, rest)
}

function childOf(type: z.core.$ZodType, step: string): z.core.$ZodType | null {
  if (type instanceof z.ZodObject) return Object.hasOwn(type.shape, step) ? (type.shape[step] ?? null) : null
  if (type instanceof z.ZodRecord) return type.valueType
  if (type instanceof z.ZodArray) return type.element
  return null
}

export function peel(type: z.core.$ZodType): Peeled {
  const kind = fieldMetadata.get(type)?.kind ?? null
  const inner = wrapped(type)
  if (inner === null) return { type, kind, fallback: undefined }
  const below = peel(inner)
  const fallback = type instanceof z.ZodPrefault ? type.def.defaultValue : below.fallback
  return { type: below.type, kind: kind ?? below.kind, fallback }
}

function wrapped(type: z.core.$ZodType): z.core.$ZodType | null {
  if (type instanceof z.ZodOptional || type instanceof z.ZodPrefault) return type.def.innerType
  return type instanceof z.ZodPipe ? type.def.in : null
}

// For editors

/** The settings as a JSON Schema, each field with its default as people write it and its reload class. */
export function jsonSchema(): Record<string, unknown> {
  const reference = {
    type: 'string',
    pattern: String.raw`\$\{|^file:`,
    description:
      'From the environment, ${NAME} or ${NAME:-default}; or, where a secret belongs, from a file: file:/path.',
  }
  const described = z.toJSONSchema(schema, {
    io: 'input',
    override: ({ zodSchema, jsonSchema }) => allowReference(zodSchema, jsonSchema),
  })
  // What is only there to be referred to.
  const patternProperties = { '^x-': {} }
  return { ...described, patternProperties, title: 'Settings of scrapellm-proxy', $defs: { reference } }
}

/** Where not any text will do, `${NAME}` is right all the same. */
function allowReference(type: z.core.$ZodType, described: z.core.JSONSchema.BaseSchema): void {
  if (flow(described.default) === '{}') delete described.default
  const isPicky =
    type instanceof z.ZodNumber ||
    type instanceof z.ZodBoolean ||
    type instanceof z.ZodEnum ||
    described.pattern !== undefined
  if (!isPicky || wrapped(type) !== null || described.anyOf !== undefined) return
  const { description, reload, default: fallback, ...rule } = described
  for (const name of Object.keys(described)) delete described[name]
  const said = { description, reload, default: fallback }
  Object.assign(described, Object.fromEntries(Object.entries(said).filter(([, value]) => value !== undefined)))
  described.anyOf = [rule, { $ref: '#/$defs/reference' }]
}

// For readers

/** One setting; a list or a map of settings has a row of its own, too. */
export interface Row {
  readonly name: string
  readonly type: z.core.$ZodType
  readonly fallback: string
  readonly meaning: string
  readonly reload: string
}

export function settingsRows(): readonly Row[] {
  return rowsOf(schema, '')
}

function rowsOf(type: z.core.$ZodType, name: string): Row[] {
  const { type: bare, fallback } = peel(type)
  const said = z.globalRegistry.get(type)
  const own = {
    name,
    type,
    fallback: shownDefault(fallback),
    meaning: said?.description ?? '',
    reload: said?.['reload'] === 'restart' ? 'restart' : 'live',
  }
  if (name === 'retry.classes') return [own, ...classFields(bare, name), ...classRows(bare)]
  if (name.endsWith('.retry.classes')) return [own, ...classFields(bare, name)]
  const option = bare instanceof z.ZodUnion ? bare.options.find(isMap) : undefined
  if (option !== undefined) return [own, ...rowsOf(option, name)]
  if (bare instanceof z.ZodRecord && !isLeaf(bare.valueType)) return [own, ...rowsOf(bare.valueType, `${name}.NAME`)]
  if (bare instanceof z.ZodArray && !isLeaf(bare.element)) return [own, ...rowsOf(bare.element, `${name}[]`)]
  if (!(bare instanceof z.ZodObject)) return [own]
  return Object.entries(bare.shape).flatMap(([key, child]) => rowsOf(child, name === '' ? key : `${name}.${key}`))
}

/** All classes have the same fields: each is one row. */
function classFields(type: z.core.$ZodType, name: string): Row[] {
  const sample = type instanceof z.ZodObject ? type.shape['serverError'] : undefined
  return sample === undefined ? [] : rowsOf(sample, `${name}.CLASS`)
}

/** And so is each class, with what is its own. */
function classRows(type: z.core.$ZodType): Row[] {
  if (!(type instanceof z.ZodObject)) return []
  return Object.entries(type.shape).map(([name, one]) => ({
    name: `retry.classes.${name}`,
    type: one,
    fallback: code(flow(defaultsOf(one))),
    meaning: z.globalRegistry.get(one)?.description ?? '',
    reload: 'live',
  }))
}

function defaultsOf(type: z.core.$ZodType): Record<string, unknown> {
  const { type: bare } = peel(type)
  if (!(bare instanceof z.ZodObject)) return {}
  const all = Object.entries(bare.shape).map(([name, child]) => {
    const { type: inner, fallback } = peel(child)
    const value =
      inner instanceof z.ZodObject ? defaultsOf(child) : (z.globalRegistry.get(child)?.['default'] ?? fallback)
    return [name, value] as const
  })
  return Object.fromEntries(all.filter(([, value]) => value !== undefined && value !== false && flow(value) !== '{}'))
}

function isLeaf(type: z.core.$ZodType): boolean {
  return !isMap(type)
}

function isMap(type: z.core.$ZodType): boolean {
  return peel(type).type instanceof z.ZodObject
}

function shownDefault(value: unknown): string {
  if (value === undefined) return '—'
  return flow(value) === '{}' ? '' : code(flow(value))
}

/** As one would write it in YAML on one line. */
function flow(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(flow).join(', ')}]`
  if (typeof value !== 'object' || value === null) return String(value)
  const pairs = Object.entries(value).map(([name, one]) => `${name}: ${flow(one)}`)
  return pairs.length === 0 ? '{}' : `{ ${pairs.join(', ')} }`
}

function code(text: string): string {
  return `\`${text}\``
}

export function cell(text: string): string {
  return text.replaceAll('|', String.raw`\|`)
}

// For operators

/** A running configuration as people write it: units again, secrets masked, every retry class in full. */
export function effective(config: Config): unknown {
  return shown(schema, { ...config, retry: { ...config.retry, classes: resolveRetry(config.retry).classes } })
}

function shown(type: z.core.$ZodType, value: unknown): unknown {
  if (isAbsent(value)) return null
  const { type: bare, kind: own } = peel(type)
  const kind = own ?? (typeof value === 'string' ? kindOfText(bare) : null)
  if (typeof value === 'number' && kind === 'duration') return formatDuration(value)
  if (typeof value === 'number' && kind === 'size') return formatSize(value)
  if (kind === 'secret') return String(value)
  if (kind === 'access' && typeof value === 'string') return value.replace(/\/\/[^@]*@/, '//****@')
  // The path of a webhook is its secret.
  if (kind === 'webhook') return `${URL.parse(String(value))?.origin ?? ''}/****`
  if (kind === 'digest') return `${String(value).slice(0, 8)}…`
  if (Array.isArray(value)) return value.map((item) => shown(itemOf(bare), item))
  if (typeof value !== 'object' || value === null) return value
  const map = mapOf(bare)
  const names = map instanceof z.ZodObject ? Object.keys(map.shape) : Object.keys(value)
  const pairs = names.map((name) => [name, shown(childOf(map, name) ?? map, Reflect.get(value, name))] as const)
  return Object.fromEntries(pairs.filter(([, one]) => !isAbsent(one)))
}

/** Where a text is one of several forms. */
function kindOfText(type: z.core.$ZodType): Field['kind'] {
  if (!(type instanceof z.ZodUnion)) return null
  return type.options.map(peel).find((option) => option.type instanceof z.ZodString)?.kind ?? null
}

function itemOf(type: z.core.$ZodType): z.core.$ZodType {
  const list = type instanceof z.ZodUnion ? type.options.find((option) => option instanceof z.ZodArray) : type
  return list instanceof z.ZodArray ? list.element : type
}

/** What describes a value that is a map. */
function mapOf(type: z.core.$ZodType): z.core.$ZodType {
  const option = type instanceof z.ZodUnion ? type.options.find(isMap) : undefined
  return option === undefined ? type : peel(option).type
}

function isAbsent(value: unknown): boolean {
  return value === undefined || value === null || (Array.isArray(value) && value.length === 0)
}
