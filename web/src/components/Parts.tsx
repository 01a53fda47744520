/** Short phrases in a row that break between phrases, not inside them, while they fit. */
export function Parts({ of, between }: { of: readonly string[]; between: string }) {
  return (
    <span>
      {of.map((part, index) => (
        <>
          <span class="part">{index < of.length - 1 ? part + between.trimEnd() : part}</span>
          {index < of.length - 1 && " "}
        </>
      ))}
    </span>
  );
}
