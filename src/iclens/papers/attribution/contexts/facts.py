"""Relations whose facts most language models know, in lists, and sentences that say otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Relation:
    """Pairs of a subject and what is true of it, and how they are said.

    Attributes:
        name: what the relation is called.
        sentence: a format string with `{subject}` and, at its end before the full stop, `{answer}`.
        question: a format string with `{subject}`.
        known: subjects and their true answers, in one text: `subject: answer` between semicolons.
    """

    name: str
    sentence: str
    question: str
    known: str

    @cached_property
    def truth(self) -> dict[str, str]:
        """The true answer of every subject."""
        pairs = (entry.split(":") for entry in self.known.replace("\n", " ").split(";") if entry.strip())
        return {subject.strip(): answer.strip() for subject, answer in pairs}

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """All different answers."""
        return tuple(dict.fromkeys(self.truth.values()))

    def stem(self, subject: str) -> str:
        """Return the sentence up to its answer."""
        return self.sentence.partition("{answer}")[0].format(subject=subject).rstrip()

    def said(self, subject: str, answer: str) -> str:
        """Return the sentence."""
        return self.sentence.format(subject=subject, answer=answer)

    def asked(self, subject: str) -> str:
        """Return the question."""
        return self.question.format(subject=subject)


_ALL = (
    Relation(
        "capital",
        "The capital of {subject} is {answer}.",
        "What is the capital of {subject}?",
        """France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon; Austria: Vienna;
        Greece: Athens; Poland: Warsaw; Hungary: Budapest; Norway: Oslo; Sweden: Stockholm; Finland: Helsinki;
        Denmark: Copenhagen; Ireland: Dublin; Russia: Moscow; Turkey: Ankara; Egypt: Cairo; Kenya: Nairobi;
        Morocco: Rabat; Japan: Tokyo; China: Beijing; India: New Delhi; Thailand: Bangkok; Vietnam: Hanoi;
        Iran: Tehran; Iraq: Baghdad; Israel: Jerusalem; Canada: Ottawa; Mexico: Mexico City; Cuba: Havana; Peru: Lima;
        Chile: Santiago; Argentina: Buenos Aires; Brazil: Brasilia; Australia: Canberra; Nepal: Kathmandu""",
    ),
    Relation(
        "currency",
        "The currency of {subject} is the {answer}.",
        "What is the currency of {subject}?",
        """Japan: yen; China: yuan; India: rupee; Russia: ruble; Brazil: real; Mexico: peso; Switzerland: franc;
        Sweden: krona; Norway: krone; Poland: zloty; Hungary: forint; Turkey: lira; Israel: shekel; Thailand: baht;
        Vietnam: dong; South Korea: won; South Africa: rand; Nigeria: naira; Kenya: shilling; Peru: sol;
        Saudi Arabia: riyal; Kuwait: dinar; Malaysia: ringgit; Indonesia: rupiah; Ghana: cedi; Ukraine: hryvnia;
        Romania: leu; Bulgaria: lev; Morocco: dirham; Bangladesh: taka; Mongolia: tugrik; Georgia: lari;
        Germany: euro; Canada: dollar; England: pound; Zambia: kwacha""",
    ),
    Relation(
        "language",
        "The official language of {subject} is {answer}.",
        "What is the official language of {subject}?",
        """Brazil: Portuguese; Argentina: Spanish; Austria: German; Senegal: French; Egypt: Arabic; Iran: Persian;
        Israel: Hebrew; Japan: Japanese; China: Mandarin; Poland: Polish; Sweden: Swedish; Norway: Norwegian;
        Denmark: Danish; Finland: Finnish; Hungary: Hungarian; Greece: Greek; Turkey: Turkish; Thailand: Thai;
        Vietnam: Vietnamese; Russia: Russian; Ukraine: Ukrainian; Romania: Romanian; Bulgaria: Bulgarian;
        Albania: Albanian; Iceland: Icelandic; Italy: Italian; Australia: English; Pakistan: Urdu; Nepal: Nepali;
        Bangladesh: Bengali; Somalia: Somali; Mongolia: Mongolian; Armenia: Armenian; Georgia: Georgian;
        Estonia: Estonian; Latvia: Latvian""",
    ),
    Relation(
        "headquarters",
        "The headquarters of {subject} are in {answer}.",
        "In which city are the headquarters of {subject}?",
        """Microsoft: Redmond; Amazon: Seattle; Boeing: Chicago; Nike: Beaverton; Toyota: Nagoya; Siemens: Munich;
        Samsung: Seoul; Nokia: Espoo; Walmart: Bentonville; Coca-Cola: Atlanta; Disney: Burbank; Netflix: Los Gatos;
        Intel: Santa Clara; Oracle: Austin; Pfizer: New York; Philips: Amsterdam; Shell: London; Ferrari: Maranello;
        Volvo: Gothenburg; Porsche: Stuttgart; Airbus: Toulouse; Nintendo: Kyoto; Sony: Minato; Lego: Billund;
        Ford: Dearborn; Starbucks: Tacoma; McDonald's: Oak Brook; Adobe: San Jose; Twitter: San Francisco;
        Target: Minneapolis; Kellogg: Battle Creek; FedEx: Memphis; Spotify: Malmo; Michelin: Lyon; Nestle: Geneva;
        Bayer: Cologne""",
    ),
    Relation(
        "author",
        "The author of {subject} is {answer}.",
        "Who is the author of {subject}?",
        """Dracula: Bram Stoker; Hamlet: William Shakespeare; Emma: Jane Austen; Ulysses: James Joyce;
        Moby Dick: Herman Melville; Oliver Twist: Charles Dickens; War and Peace: Leo Tolstoy;
        Crime and Punishment: Fyodor Dostoevsky; Don Quixote: Miguel de Cervantes; Faust: Johann Goethe;
        The Trial: Franz Kafka; Frankenstein: Mary Shelley; Jane Eyre: Charlotte Bronte; The Hobbit: J. R. R. Tolkien;
        The Stranger: Albert Camus; Les Miserables: Victor Hugo; Lolita: Vladimir Nabokov; Dune: Frank Herbert;
        Beloved: Toni Morrison; The Raven: Edgar Allan Poe; Peter Pan: J. M. Barrie; Treasure Island: Robert Stevenson;
        The Great Gatsby: F. Scott Fitzgerald; Brave New World: Aldous Huxley; Animal Farm: George Orwell;
        Walden: Henry Thoreau; The Odyssey: Homer; The Divine Comedy: Dante; Paradise Lost: John Milton;
        Middlemarch: George Eliot; The Time Machine: H. G. Wells; Tom Sawyer: Mark Twain; Siddhartha: Hermann Hesse;
        The Seagull: Anton Chekhov; Candide: Voltaire; Foundation: Isaac Asimov""",
    ),
    Relation(
        "instrument",
        "The favourite instrument of {subject} was the {answer}.",
        "What was the favourite instrument of {subject}?",
        """Frederic Chopin: piano; Niccolo Paganini: violin; Jimi Hendrix: guitar; Louis Armstrong: trumpet;
        John Coltrane: saxophone; Pablo Casals: cello; Johann Bach: organ; Ringo Starr: drum; Ravi Shankar: sitar;
        Benny Goodman: clarinet; Frederick the Great: flute; Glenn Miller: trombone; Bob Dylan: harmonica;
        Pete Seeger: banjo; Astor Piazzolla: accordion; King David: harp; Charles Mingus: bass; Bill Monroe: mandolin;
        Heinz Holliger: oboe; Dennis Brain: horn; Lionel Hampton: vibraphone; Wanda Landowska: harpsichord;
        George Formby: ukulele; William Primrose: viola; John Dowland: lute; Evelyn Glennie: marimba""",
    ),
    Relation(
        "birthplace",
        "{subject} was born in the city of {answer}.",
        "In which city was {subject} born?",
        """Mozart: Salzburg; Beethoven: Bonn; Albert Einstein: Ulm; Leonardo da Vinci: Vinci; Isaac Newton: Woolsthorpe;
        Charles Darwin: Shrewsbury; Marie Curie: Warsaw; Nikola Tesla: Smiljan; Pablo Picasso: Malaga;
        Vincent van Gogh: Zundert; Rembrandt: Leiden; Michelangelo: Caprese; Galileo: Pisa; Copernicus: Torun;
        Immanuel Kant: Konigsberg; Karl Marx: Trier; Sigmund Freud: Freiberg; Mahatma Gandhi: Porbandar;
        Nelson Mandela: Mvezo; Martin Luther King: Atlanta; Abraham Lincoln: Hodgenville; John Lennon: Liverpool;
        Elvis Presley: Tupelo; Bob Marley: Nine Mile; Napoleon: Ajaccio; Columbus: Genoa; Alfred Nobel: Stockholm;
        Louis Pasteur: Dole; Rene Descartes: La Haye; Blaise Pascal: Clermont; Johannes Kepler: Weil; Stalin: Gori""",
    ),
)

RELATIONS = {one.name: one for one in _ALL}
"""By name."""
