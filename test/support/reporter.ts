/**
 * tap's reporter for this project: every failing assertion in full, then the closing line `N passed, N failed`.
 * It must be a Transform: tap pipes it on to stdout.
 */
import { Transform, type TransformCallback } from 'node:stream'
import { Parser } from 'tap-parser'

export default class Reporter extends Transform {
  readonly #parser = new Parser()
  readonly #counts = { pass: 0, fail: 0, skip: 0, todo: 0 }

  constructor() {
    super({ decodeStrings: false })
    this.#watch(this.#parser, [])
    process.once('exit', () => {
      const { pass, fail, skip, todo } = this.#counts
      const skipped = skip + todo
      process.stdout.write(`${pass} passed, ${fail} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`)
    })
  }

  #watch(parser: Parser, path: readonly string[]): void {
    parser.on('child', (child) => this.#watch(child, [...path, child.name]))
    parser.on('assert', (result) => {
      if (result.ok || result.todo) return
      const diagnosis = result.diag ? `${JSON.stringify(result.diag, null, 2)}\n` : ''
      this.push(`not ok ${[...path, result.name].join(' > ')}\n${diagnosis}`)
    })
    parser.on('bailout', (reason) => this.push(`Bail out! ${reason}\n`))
    if (path.length === 0) parser.on('comment', (comment) => this.#total(comment))
  }

  #total(comment: string): void {
    if (!comment.startsWith('# { total:')) {
      this.push(comment)
      return
    }
    for (const name of ['pass', 'fail', 'skip', 'todo'] as const) {
      this.#counts[name] = Number(new RegExp(`${name}: (\\d+)`).exec(comment)?.[1] ?? 0)
    }
  }

  override _transform(chunk: Buffer | string, _encoding: BufferEncoding, done: TransformCallback): void {
    this.#parser.write(chunk)
    done()
  }

  override _flush(done: TransformCallback): void {
    this.#parser.end()
    done()
  }
}
