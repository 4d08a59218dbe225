// A line over the last minute, small. Drawn by uPlot; who cannot see it is told the same in words.
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import { useShared } from './shared';

export interface Line {
    values: number[];
    /** Name of the colour in style.css, without the dashes. */
    colour: 'calls' | 'failed' | 'latency';
}

const HEIGHT = 64;

export function Chart(props: { lines: Line[]; everyMs: number; text: string; unit: (value: number) => string }) {
    const { isDark, language } = useShared();
    const box = useRef<HTMLDivElement>(null);
    const plot = useRef<uPlot | undefined>(undefined);
    const count = Math.max(...props.lines.map((line) => line.values.length), 2);
    const data = [
        Array.from({ length: count }, (_, place) => ((place - count + 1) * props.everyMs) / 1000),
        ...props.lines.map((line) => [...Array<null>(count - line.values.length).fill(null), ...line.values]),
    ] as uPlot.AlignedData;
    useEffect(() => {
        const element = box.current;
        if (!element) return;
        const style = getComputedStyle(document.documentElement);
        const colour = (name: string) => style.getPropertyValue(`--${name}`).trim();
        const axis = { stroke: colour('quiet'), font: '11px system-ui, sans-serif', ticks: { show: false } };
        const made = new uPlot(
            {
                width: Math.max(element.clientWidth, 80),
                height: HEIGHT,
                legend: { show: false },
                cursor: { show: false },
                padding: [6, 4, 7, 0],
                scales: { x: { time: false }, y: { range: (_, __, most) => [0, Math.max(most * 1.15, 1)] } },
                axes: [
                    { show: false },
                    { ...axis, size: 52, splits: (_, __, ___, most) => [0, most / 1.15], values: (_, splits) => splits.map(props.unit), grid: { stroke: colour('line'), width: 1 } },
                ],
                series: [
                    {},
                    ...props.lines.map((line) => ({
                        stroke: colour(line.colour),
                        width: 1.5,
                        fill: line.colour === 'failed' ? undefined : `${colour(line.colour)}22`,
                        points: { show: false },
                    })),
                ],
            },
            data,
            element,
        );
        plot.current = made;
        const sized = new ResizeObserver(() => made.setSize({ width: Math.max(element.clientWidth, 80), height: HEIGHT }));
        sized.observe(element);
        return () => {
            sized.disconnect();
            made.destroy();
        };
    }, [isDark, language, props.lines.length]);
    useEffect(() => plot.current?.setData(data), [props.lines]);
    return <div class="chart" role="img" aria-label={props.text} ref={box} />;
}
