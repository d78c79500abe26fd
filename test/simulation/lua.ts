/**
 * The Lua that our scripts are written in, as JavaScript functions: so the model of Redis runs the very text that Redis runs. Only the
 * part of Lua 5.1 that they use; anything else fails when it is compiled, not when it is run. Strings are byte strings, one
 * character a byte; all numbers are doubles, as in Lua.
 */
import { compileFunction } from 'node:vm'
import luaparse from 'luaparse'

/** undefined = nil. */
export type LuaValue = undefined | boolean | number | string | LuaTable | LuaFunction
type LuaFunction = (...args: LuaValue[]) => LuaValue[]

export class LuaTable {
  /** From index 1 on, without gaps. */
  readonly list: LuaValue[]
  readonly fields = new Map<LuaValue, LuaValue>()

  constructor(list: LuaValue[] = []) {
    this.list = list
  }
}

export type RedisCall = (args: readonly string[]) => LuaValue
export type Script = (call: RedisCall, keys: readonly string[], args: readonly string[]) => LuaValue

/** What `redis.call` raises: the reply of a command that failed. */
export class LuaError extends Error {}

export function compileLua(text: string): Script {
  const chunk = luaparse.parse(text, { luaVersion: '5.1', encodingMode: 'pseudo-latin1' })
  const body = createCompiler().chunk(chunk.body)
  const run = compileFunction(body, ['R', 'redisCall', 'redisPcall', 'KEYS', 'ARGV']) as (
    ...given: unknown[]
  ) => LuaValue[]
  return (call, keys, args) => {
    const redisCall = (...given: LuaValue[]): LuaValue => call(given.map(argument))
    const redisPcall = (...given: LuaValue[]): LuaValue => {
      try {
        return redisCall(...given)
      } catch (error) {
        if (!(error instanceof LuaError)) throw error
        return withField('err', error.message)
      }
    }
    return run(runtime, redisCall, redisPcall, new LuaTable([...keys]), new LuaTable([...args]))[0]
  }
}

export function withField(name: string, value: LuaValue): LuaTable {
  const table = new LuaTable()
  table.fields.set(name, value)
  return table
}

/** As Redis writes a number that a script hands to a command. */
function argument(value: LuaValue): string {
  if (typeof value === 'string') return value
  if (typeof value === 'number') return formatNumber(value, 17)
  throw new LuaError('ERR Lua redis lib command arguments must be strings or integers')
}

/** C's `%.<digits>g`. */
export function formatNumber(value: number, digits: number): string {
  if (Number.isNaN(value)) return 'nan'
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf'
  if (Number.isInteger(value) && Math.abs(value) < 10 ** Math.min(digits, 15))
    return Object.is(value, -0) ? '-0' : `${value}`
  const exponent = value === 0 ? 0 : Number(value.toExponential(digits - 1).split('e')[1])
  if (exponent < -4 || exponent >= digits) {
    const [mantissa = '', power = ''] = value.toExponential(digits - 1).split('e')
    const short = mantissa.includes('.') ? mantissa.replace(/\.?0+$/, '') : mantissa
    return `${short}e${power.startsWith('-') ? '-' : '+'}${power.slice(1).padStart(2, '0')}`
  }
  const fixed = value.toFixed(Math.max(0, digits - 1 - exponent))
  return fixed.includes('.') ? fixed.replace(/\.?0+$/, '') : fixed
}

// What compiled scripts call

const NUMERAL = /^\s*[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|0[xX][0-9a-fA-F]+)\s*$/

function tonumber(value: LuaValue): number | undefined {
  if (typeof value === 'number') return value
  return typeof value === 'string' && NUMERAL.test(value) ? Number(value) : undefined
}

function isTrue(value: LuaValue): boolean {
  return value !== undefined && value !== false
}

function number(value: LuaValue): number {
  const converted = tonumber(value)
  if (converted === undefined) throw new LuaError(`ERR attempt to perform arithmetic on a ${type(value)} value`)
  return converted
}

function text(value: LuaValue): string {
  if (typeof value === 'string') return value
  if (typeof value === 'number') return formatNumber(value, 14)
  throw new LuaError(`ERR attempt to concatenate a ${type(value)} value`)
}

function type(value: LuaValue): string {
  if (value === undefined) return 'nil'
  return value instanceof LuaTable ? 'table' : typeof value
}

function isLess(a: LuaValue, b: LuaValue): boolean {
  if (typeof a === 'number' && typeof b === 'number') return a < b
  if (typeof a === 'string' && typeof b === 'string') return a < b
  throw new LuaError(`ERR attempt to compare ${type(a)} with ${type(b)}`)
}

function isAtMost(a: LuaValue, b: LuaValue): boolean {
  if (typeof a === 'number' && typeof b === 'number') return a <= b
  return !isLess(b, a)
}

function get(of: LuaValue, key: LuaValue): LuaValue {
  if (!(of instanceof LuaTable)) throw new LuaError(`ERR attempt to index a ${type(of)} value`)
  return typeof key === 'number' && key >= 1 && key <= of.list.length ? of.list[key - 1] : of.fields.get(key)
}

function set(of: LuaValue, key: LuaValue, value: LuaValue): void {
  if (!(of instanceof LuaTable)) throw new LuaError(`ERR attempt to index a ${type(of)} value`)
  if (typeof key === 'number' && key >= 1 && key <= of.list.length && value !== undefined) of.list[key - 1] = value
  else if (key === of.list.length + 1 && value !== undefined) of.list.push(value)
  else of.fields.set(key, value)
}

function lengthOf(value: LuaValue): number {
  if (typeof value === 'string') return value.length
  if (value instanceof LuaTable) return value.list.length
  throw new LuaError(`ERR attempt to get length of a ${type(value)} value`)
}

function call(callee: LuaValue, ...args: LuaValue[]): LuaValue[] {
  if (typeof callee !== 'function') throw new LuaError(`ERR attempt to call a ${type(callee)} value`)
  return callee(...args)
}

function format(pattern: LuaValue, ...given: LuaValue[]): string {
  let at = 0
  return text(pattern).replaceAll(
    /%(0?)(\d*)(?:\.(\d+))?([dfs%])/g,
    (_all, zero: string, width: string, _digits, kind: string) => {
      if (kind === '%') return '%'
      const value = given[at]
      at += 1
      const plain = kind === 's' ? text(value) : kind === 'd' ? `${Math.trunc(number(value))}` : rounded(number(value))
      return plain.padStart(Number(width), zero === '0' ? '0' : ' ')
    },
  )
}

/** `%.0f`: halves go to the even one. */
function rounded(value: number): string {
  const below = Math.floor(value)
  const isHalf = value - below === 0.5
  return formatNumber(isHalf ? below + (Math.abs(below) % 2) : Math.round(value), 17)
}

const patterns = new Map<string, RegExp>()
const classes: Readonly<Record<string, string>> = { d: '0-9', a: 'A-Za-z', x: '0-9A-Fa-f' }

/** The patterns that our scripts use, as regular expressions. */
function regExpOf(pattern: string): RegExp {
  const known = patterns.get(pattern)
  if (known) return known
  const rest = pattern.replaceAll(/%[dax]|%S|%-|[\^$()[\]+:_A-Za-z0-9 ]/g, '')
  if (rest !== '') throw new SyntaxError(`The model does not know the Lua pattern ${pattern}`)
  const inSet = pattern.replaceAll(/\[[^\]]*\]/g, (set) =>
    set.replaceAll(/%([dax])/g, (_all, name: string) => classes[name] ?? '').replaceAll('%-', String.raw`\-`),
  )
  const source = inSet
    .replaceAll(/%([dax])/g, (_all, name: string) => `[${classes[name]}]`)
    .replaceAll('%S', String.raw`[^ \t\n\r\f\v]`)
    .replaceAll('%-', '-')
  const compiled = new RegExp(source)
  patterns.set(pattern, compiled)
  return compiled
}

function match(subject: LuaValue, pattern: LuaValue): LuaValue[] {
  const found = regExpOf(text(pattern)).exec(text(subject))
  if (!found) return [undefined]
  return found.length > 1 ? found.slice(1) : [found[0]]
}

function sub(of: LuaValue, from: LuaValue, to: LuaValue = -1): string {
  const whole = text(of)
  const [first, last] = [number(from), number(to)]
  const start = first < 0 ? Math.max(whole.length + first, 0) : Math.max(first, 1) - 1
  return whole.slice(start, Math.max(start, last < 0 ? whole.length + last + 1 : last))
}

const runtime = {
  isTrue,
  number,
  text,
  isLess,
  isAtMost,
  get,
  set,
  lengthOf,
  call,
  table: (list: LuaValue[], fields: readonly (readonly [LuaValue, LuaValue])[]) => {
    const made = new LuaTable(list)
    for (const [key, value] of fields) set(made, key, value)
    return made
  },
  one: (value: LuaValue[]) => value[0],
  builtin: {
    tonumber,
    type,
    'math.floor': (value: LuaValue) => Math.floor(number(value)),
    'math.ceil': (value: LuaValue) => Math.ceil(number(value)),
    'math.max': (...values: LuaValue[]) => Math.max(...values.map(number)),
    'math.min': (...values: LuaValue[]) => Math.min(...values.map(number)),
    'string.format': format,
    'string.sub': sub,
    'table.insert': (into: LuaValue, value: LuaValue) => {
      set(into, lengthOf(into) + 1, value)
    },
  },
  many: {
    'string.match': match,
    unpack: (of: LuaValue) => (of instanceof LuaTable ? of.list : []),
  },
}

// From syntax to text

type Statement = luaparse.Statement
type Expression = luaparse.Expression

function createCompiler() {
  let scopes: Map<string, string>[] = []
  let names = 0
  /** Of the function that is being compiled. */
  let temporaries: string[] = []

  return {
    chunk: (body: readonly Statement[]) => functionBody([], body),
  }

  function fresh(): string {
    names += 1
    return `v${names}`
  }

  function declare(name: string): string {
    const own = fresh()
    scopes.at(-1)?.set(name, own)
    return own
  }

  function local(name: string): string | null {
    return scopes.findLast((scope) => scope.has(name))?.get(name) ?? null
  }

  function functionBody(parameters: readonly string[], body: readonly Statement[]): string {
    const outer = temporaries
    temporaries = []
    const text = block(body, parameters)
    const declared = temporaries.length > 0 ? `let ${temporaries.join(',')};` : ''
    temporaries = outer
    return `${declared}${text}return [];`
  }

  function block(body: readonly Statement[], parameters: readonly string[] = []): string {
    scopes.push(new Map())
    for (const parameter of parameters) scopes.at(-1)?.set(parameter, `p_${parameter}`)
    const text = body.map(statement).join('\n')
    scopes = scopes.slice(0, -1)
    return text
  }

  function statement(node: Statement): string {
    switch (node.type) {
      case 'LocalStatement': {
        const values = many(node.init)
        const simple = node.init.length === node.variables.length && !node.init.some(isMany)
        if (simple && node.variables.length === 1) {
          const value = one(node.init[0] as Expression)
          return `let ${declare(node.variables[0]?.name ?? '')} = ${value};`
        }
        return `let [${node.variables.map(({ name }) => declare(name)).join(',')}] = ${values};`
      }
      case 'AssignmentStatement': {
        const [target] = node.variables
        if (node.variables.length === 1 && node.init.length === 1 && target)
          return assign(target, one(node.init[0] as Expression))
        const held = fresh()
        return `const ${held} = ${many(node.init)};${node.variables.map((to, at) => assign(to, `${held}[${at}]`)).join('')}`
      }
      case 'CallStatement':
        return `${node.expression.type === 'CallExpression' ? callOf(node.expression).text : unknown(node)};`
      case 'ReturnStatement':
        return `return ${many(node.arguments)};`
      case 'BreakStatement':
        return 'break;'
      case 'DoStatement':
        return `{${block(node.body)}}`
      case 'WhileStatement':
        return `while (${condition(node.condition)}) {${block(node.body)}}`
      case 'IfStatement':
        return node.clauses
          .map((clause, at) => {
            const body = `{${block(clause.body)}}`
            if (clause.type === 'ElseClause') return `else ${body}`
            return `${at === 0 ? '' : 'else '}if (${condition(clause.condition)}) ${body}`
          })
          .join(' ')
      case 'FunctionDeclaration': {
        if (!node.isLocal || node.identifier?.type !== 'Identifier') return unknown(node)
        const name = declare(node.identifier.name)
        return `const ${name} = ${functionOf(node)};`
      }
      case 'ForNumericStatement': {
        const [from, to, step] = [one(node.start), one(node.end), node.step ? one(node.step) : '1']
        const [limit, by] = [fresh(), fresh()]
        scopes.push(new Map())
        const variable = declare(node.variable.name)
        const body = block(node.body)
        scopes = scopes.slice(0, -1)
        return `for (let ${variable} = R.number(${from}), ${limit} = R.number(${to}), ${by} = R.number(${step}); ${variable} <= ${limit}; ${variable} += ${by}) {${body}}`
      }
      case 'ForGenericStatement': {
        const [iterator] = node.iterators
        if (
          iterator?.type !== 'CallExpression' ||
          iterator.base.type !== 'Identifier' ||
          iterator.base.name !== 'ipairs'
        )
          return unknown(node)
        const [over, value] = [fresh(), fresh()]
        const of = one(iterator.arguments[0] as Expression)
        scopes.push(new Map())
        const [key = '', second] = node.variables.map(({ name }) => declare(name))
        const body = block(node.body)
        scopes = scopes.slice(0, -1)
        return `for (let ${over} = ${of}, ${key} = 1; ; ${key} += 1) { const ${value} = R.get(${over}, ${key}); if (${value} === undefined) break; ${second ? `let ${second} = ${value};` : ''}${body}}`
      }
      case 'GotoStatement':
      case 'LabelStatement':
      case 'RepeatStatement':
        return unknown(node)
      default:
        return node satisfies never
    }
  }

  function assign(target: Expression, value: string): string {
    if (target.type === 'Identifier') return `${local(target.name) ?? unknown(target)} = ${value};`
    if (target.type === 'MemberExpression')
      return `R.set(${one(target.base)}, ${JSON.stringify(target.identifier.name)}, ${value});`
    if (target.type === 'IndexExpression') return `R.set(${one(target.base)}, ${one(target.index)}, ${value});`
    return unknown(target)
  }

  function functionOf(node: luaparse.FunctionDeclaration): string {
    const parameters = node.parameters.map((one) => (one.type === 'Identifier' ? one.name : unknown(one)))
    return `(${parameters.map((name) => `p_${name}`).join(',')}) => {${functionBody(parameters, node.body)}}`
  }

  /** All values of a list, as an array. */
  function many(list: readonly Expression[]): string {
    return `[${spread(list)}]`
  }

  function spread(list: readonly Expression[]): string {
    return list
      .map((node, at) => (at === list.length - 1 && isMany(node) ? `...${callOf(node).text}` : one(node)))
      .join(',')
  }

  function isMany(node: Expression): node is luaparse.CallExpression {
    return node.type === 'CallExpression' && callOf(node).isMany
  }

  function callOf(node: luaparse.CallExpression): { readonly text: string; readonly isMany: boolean } {
    const name = globalName(node.base)
    const args = (): string => spread(node.arguments)
    if (name === 'redis.call' || name === 'redis.pcall') {
      return { text: `${name === 'redis.call' ? 'redisCall' : 'redisPcall'}(${args()})`, isMany: false }
    }
    if (name !== null && name in runtime.builtin)
      return { text: `R.builtin[${JSON.stringify(name)}](${args()})`, isMany: false }
    if (name !== null && name in runtime.many)
      return { text: `R.many[${JSON.stringify(name)}](${args()})`, isMany: true }
    if (name !== null) return { text: unknown(node), isMany: false }
    return { text: `R.call(${one(node.base)}${node.arguments.length > 0 ? ',' : ''}${args()})`, isMany: true }
  }

  function globalName(node: Expression): string | null {
    if (node.type === 'Identifier') return local(node.name) === null ? node.name : null
    if (node.type !== 'MemberExpression' || node.base.type !== 'Identifier' || local(node.base.name) !== null)
      return null
    return `${node.base.name}.${node.identifier.name}`
  }

  function one(node: Expression): string {
    switch (node.type) {
      case 'NilLiteral':
        return 'undefined'
      case 'BooleanLiteral':
      case 'NumericLiteral':
        return String(node.value)
      case 'StringLiteral':
        return JSON.stringify(node.value)
      case 'Identifier':
        return local(node.name) ?? (node.name === 'KEYS' || node.name === 'ARGV' ? node.name : unknown(node))
      case 'MemberExpression':
        return `R.get(${one(node.base)}, ${JSON.stringify(node.identifier.name)})`
      case 'IndexExpression':
        return `R.get(${one(node.base)}, ${one(node.index)})`
      case 'CallExpression': {
        const { text, isMany } = callOf(node)
        return isMany ? `R.one(${text})` : text
      }
      case 'LogicalExpression': {
        const held = fresh()
        temporaries.push(held)
        const [left, right] = [one(node.left), one(node.right)]
        const isLeft = `R.isTrue(${held} = ${left})`
        return node.operator === 'and' ? `(${isLeft} ? ${right} : ${held})` : `(${isLeft} ? ${held} : ${right})`
      }
      case 'BinaryExpression':
        return binary(node)
      case 'UnaryExpression':
        if (node.operator === 'not') return `!(${condition(node.argument)})`
        if (node.operator === '#') return `R.lengthOf(${one(node.argument)})`
        return node.operator === '-' ? `(-R.number(${one(node.argument)}))` : unknown(node)
      case 'TableConstructorExpression':
        return tableOf(node)
      case 'FunctionDeclaration':
        return functionOf(node)
      case 'StringCallExpression':
      case 'TableCallExpression':
      case 'VarargLiteral':
        return unknown(node)
      default:
        return node satisfies never
    }
  }

  function tableOf(node: luaparse.TableConstructorExpression): string {
    const values: Expression[] = []
    const fields: string[] = []
    for (const field of node.fields) {
      if (field.type === 'TableValue') values.push(field.value)
      else if (field.type === 'TableKeyString') fields.push(`[${JSON.stringify(field.key.name)}, ${one(field.value)}]`)
      else fields.push(`[${one(field.key)}, ${one(field.value)}]`)
    }
    return `R.table(${many(values)}, [${fields.join(',')}])`
  }

  function binary({ operator, left, right }: luaparse.BinaryExpression): string {
    const [a, b] = [one(left), one(right)]
    const forms: Readonly<Record<string, string>> = {
      '+': `(R.number(${a}) + R.number(${b}))`,
      '-': `(R.number(${a}) - R.number(${b}))`,
      '*': `(R.number(${a}) * R.number(${b}))`,
      '/': `(R.number(${a}) / R.number(${b}))`,
      '..': `(R.text(${a}) + R.text(${b}))`,
      '==': `(${a} === ${b})`,
      '~=': `(${a} !== ${b})`,
      '<': `R.isLess(${a}, ${b})`,
      '<=': `R.isAtMost(${a}, ${b})`,
      '>': `R.isLess(${b}, ${a})`,
      '>=': `R.isAtMost(${b}, ${a})`,
    }
    return forms[operator] ?? unknown({ type: operator })
  }

  function condition(node: Expression): string {
    if (node.type === 'LogicalExpression') {
      return `(${condition(node.left)} ${node.operator === 'and' ? '&&' : '||'} ${condition(node.right)})`
    }
    if (node.type === 'UnaryExpression' && node.operator === 'not') return `!(${condition(node.argument)})`
    const isBoolean = node.type === 'BinaryExpression' && /^[<>=~]/.test(node.operator)
    return isBoolean ? one(node) : `R.isTrue(${one(node)})`
  }

  function unknown(node: { readonly type: string }): never {
    throw new SyntaxError(`The model does not know this piece of Lua: ${JSON.stringify(node).slice(0, 200)}`)
  }
}
