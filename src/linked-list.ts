/**
 * Who is present, in the order they came; whoever leaves leaves nothing behind. For what comes and goes with every request, in
 * place of a `Set`: of a set that is always in motion V8 makes a new table every few changes, each old one points to its successor,
 * and one that has grown old keeps all later ones alive until the next full collection, with the requests and sockets of their
 * members (measured: 17 KB of each miss were copied by collections of young objects, and are 11 KB without such sets).
 */

/** Its place; empty once it has left, so that who still holds it holds nothing else. */
export interface ListEntry<T> {
  readonly member: T | null
  /** Once is enough. */
  leave(): void
}

export interface LinkedList<T> {
  add(member: T): ListEntry<T>
  /** Those that leave meanwhile are passed over; those that come meanwhile may be among them. */
  [Symbol.iterator](): Iterator<T>
  readonly size: number
}

class Node<T> implements ListEntry<T> {
  member: T | null
  before: Node<T> | null = null
  after: Node<T> | null = null
  readonly #left: (node: Node<T>) => void

  constructor(member: T, left: (node: Node<T>) => void) {
    this.member = member
    this.#left = left
  }

  leave(): void {
    if (this.member === null) return
    this.member = null
    this.#left(this)
    this.before = this.after = null
  }
}

class Members<T extends object> implements LinkedList<T> {
  size = 0
  #first: Node<T> | null = null
  #last: Node<T> | null = null

  add(member: T): ListEntry<T> {
    const node = new Node(member, this.#left)
    node.before = this.#last
    if (this.#last) this.#last.after = node
    else this.#first = node
    this.#last = node
    this.size += 1
    return node
  }

  *[Symbol.iterator](): Generator<T> {
    const present: Node<T>[] = []
    for (let node = this.#first; node; node = node.after) present.push(node)
    for (const { member } of present) if (member !== null) yield member
  }

  readonly #left = ({ before, after }: Node<T>): void => {
    if (before) before.after = after
    else this.#first = after
    if (after) after.before = before
    else this.#last = before
    this.size -= 1
  }
}

export function createLinkedList<T extends object>(): LinkedList<T> {
  return new Members()
}
