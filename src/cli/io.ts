/** What a command may touch of the world around it, so that a test can stand in for all of it. */
export interface Io {
  readonly stdout: (text: string) => void
  readonly stderr: (text: string) => void
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Throws when there is nothing to read; paths are absolute or relative to `cwd`. */
  readonly readFile: (path: string) => string
  readonly cwd: string
  readonly randomBytes: (count: number) => Uint8Array
}
