// Builds the dashboard into src/http/ui/dist, from where it is compiled into the router. With --check it writes nothing, and fails
// when what stands there is not what the sources build.
import { brotliCompressSync, brotliDecompressSync, constants, gunzipSync, gzipSync } from 'node:zlib';
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as esbuild from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, '..', 'src', 'http', 'ui', 'dist');

const built = await esbuild.build({
    absWorkingDir: here,
    entryPoints: { app: 'src/app.tsx', style: 'src/style.css' },
    outdir: 'out',
    bundle: true,
    minify: true,
    format: 'esm',
    target: ['es2022'],
    jsx: 'automatic',
    jsxImportSource: 'preact',
    legalComments: 'none',
    charset: 'utf8',
    write: false,
    logLevel: 'warning',
});
// What the licences of the libraries ask for.
const notices = ['preact', 'uplot'].map((name) => {
    const version = JSON.parse(readFileSync(join(here, 'node_modules', name, 'package.json'), 'utf8')).version;
    return `${name} ${version}\n\n${readFileSync(join(here, 'node_modules', name, 'LICENSE'), 'utf8').trim()}\n`;
});
const files = new Map(built.outputFiles.map((file) => [file.path.split(/[\\/]/).pop(), Buffer.from(file.contents)]));
for (const name of ['index.html', 'icon.svg']) files.set(name, readFileSync(join(here, 'src', name)));
files.set('licences.txt', Buffer.from(notices.join('\n')));

const shrunk = { br: brotliDecompressSync, gz: gunzipSync };
const shrink = {
    br: (text) => brotliCompressSync(text, { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: text.length } }),
    gz: (text) => gzipSync(text, { level: 9 }),
};

if (process.argv.includes('--check')) {
    const wrong = [];
    for (const [name, text] of files) {
        const path = join(dist, name);
        if (!existsSync(path) || !readFileSync(path).equals(text)) wrong.push(name);
        // Their bytes differ by the version of zlib; what they hold must not.
        for (const [ending, open] of Object.entries(shrunk)) {
            const path = join(dist, `${name}.${ending}`);
            if (!existsSync(path) || !open(readFileSync(path)).equals(text)) wrong.push(`${name}.${ending}`);
        }
    }
    const known = new Set([...files.keys()].flatMap((name) => [name, `${name}.br`, `${name}.gz`]));
    wrong.push(...readdirSync(dist).filter((name) => !known.has(name)));
    if (wrong.length) {
        console.error(`not what the sources build: ${wrong.join(', ')}. Build them: npm --prefix ui run build`);
        process.exit(1);
    }
} else {
    mkdirSync(dist, { recursive: true });
    for (const [name, text] of files) {
        writeFileSync(join(dist, name), text);
        for (const [ending, pack] of Object.entries(shrink)) writeFileSync(join(dist, `${name}.${ending}`), pack(text));
        console.log(name, text.length);
    }
}
