// A file renamed in src must not live on in dist, where an import would still find it.
import { rmSync } from 'node:fs';

rmSync(new URL('../dist', import.meta.url), { recursive: true, force: true });
